"""Weights that wait on the CPU: parts of a model, or single layers, are on the device only while they compute.

Only weights move, by hooks on the modules that own them; inputs are expected on the device. The CPU keeps its copy, so
that leaving the device costs nothing. For inference: what was written into weights on the device is lost.

A transformer's layers that come one by one do so at every step. They wait in pinned memory, from where an accelerator
fetches them by itself, in the order of its other work: the CPU can prepare what follows meanwhile.
"""
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from configuration.settings import Arguments

TEXT = "text encoder"


class Travelling:
    """The parameters and buffers of some modules, which are on the CPU or, as copies, on the device.

    `often`: they will come many times.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device, often: bool = False):
        self._slots = [(module, name) for module in modules for kind in (module.named_parameters, module.named_buffers)
                       for name, _ in kind(recurse=False)]
        self._device = device
        self._to_pin = often and device.type != "cpu"
        self._waiting: list[Tensor] | None = None

    def bring(self) -> None:
        if self._waiting is None:
            if self._to_pin:
                self._to_pin = False
                self._put([_of_its_kind(tensor, pinned(tensor.data)) for tensor in self._present()])
            self._waiting = self._present()
            distinct = {id(tensor): tensor for tensor in self._waiting}  # T5 shares a tensor between two modules
            here = {key: _of_its_kind(tensor, copied(tensor.data, self._device)) for key, tensor in distinct.items()}
            self._put([here[id(tensor)] for tensor in self._waiting])

    def release(self) -> None:
        if self._waiting is not None:
            self._put(self._waiting)
            self._waiting = None

    def drop(self) -> None:
        self.release()
        self._put([_of_its_kind(tensor, torch.empty(0)) for tensor in self._present()])

    def _present(self) -> list[Tensor]:
        return [getattr(module, name) for module, name in self._slots]

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for (module, name), tensor in zip(self._slots, tensors, strict=True):
            setattr(module, name, tensor)


def _of_its_kind(tensor: Tensor, data: Tensor) -> Tensor:
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def copied(data: Tensor, device: torch.device) -> Tensor:
    """The one place where weights travel."""
    return data.to(device, non_blocking=True)  # for the CPU; on the device what follows waits for it


def pinned(data: Tensor) -> Tensor:
    """In memory that is never swapped out; not weights in 8 bits, which consist of several tensors.

    Raises ConfigError where the machine has no more of it.
    """
    try:
        return data.pin_memory() if type(data) is Tensor else data
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"args.offload is sequential, but the transformer's layers cannot wait in pinned memory "
                          f"({reason}); use args.offload=model, or args.quantize_transformer") from error


class Offload:
    """Brings each of `parts` to the device when one of its modules is called, and takes the part before it away.

    The modules are on the CPU and are called as they are. In the parts named in `by_layer`, the layers with a weight
    come and go one by one. The small rest (tables of positions, LoRA's matrices) comes with the part, and so do
    embeddings, because a text encoder's tell where its tokens must be.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]], device: torch.device, by_layer: Collection[str] = ()):
        self.device = device
        self._parts: dict[str, Travelling] = {}
        self._layers: dict[str, list[Travelling]] = {}
        for name, called in parts.items():
            modules = dict.fromkeys(m for root in called for m in root.modules())
            layers = dict.fromkeys(m for m in modules if _is_layer(m)) if name in by_layer else {}
            self._parts[name] = Travelling([m for m in modules if m not in layers], device)
            for root in called:
                root.register_forward_pre_hook(lambda module, args, name=name: self.bring(name))
            self._layers[name] = [_come_and_go(layer, device, often=name != TEXT) for layer in layers]

    def bring(self, name: str) -> None:
        for other, weights in self._parts.items():
            if other != name:
                weights.release()
        self._parts[name].bring()

    def drop(self, name: str) -> None:
        """Frees the weights of a part that will not be called again."""
        for weights in (self._parts[name], *self._layers[name]):
            weights.drop()


def _is_layer(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.Embedding)


def _come_and_go(layer: nn.Module, device: torch.device, often: bool) -> Travelling:
    weights = Travelling([layer], device, often)
    layer.register_forward_pre_hook(lambda module, args: weights.bring())
    layer.register_forward_hook(lambda module, args, output: weights.release(), always_call=True)
    return weights


def at_rest(args: Arguments) -> Arguments:
    """The arguments to build an engine with: on the CPU, if it is to be offloaded."""
    return args if args.offload is None else replace(args, device=torch.device("cpu"))


def offload_engine(engine, how: str, device: torch.device) -> None:
    """Lets an engine on the CPU compute on `device`: one of text encoder, transformer, VAE encoder and VAE decoder at a
    time is there (`how` "model"), of the first two one layer at a time ("sequential")."""
    vae = engine.first_stage_model
    transformers = [model for model in (engine.model, engine.weak_model) if model is not None]
    parts = {TEXT: list(engine.conditioner.embedders), "transformer": transformers,
             "VAE encoder": [vae.encoder], "VAE decoder": [vae.decoder]}
    engine.offload = Offload(parts, device, (TEXT, "transformer") if how == "sequential" else ())
