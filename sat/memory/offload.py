"""Offloading: weights are kept in CPU memory, and a part of a model or a single layer is on the device only in use.

Only weights are copied, by hooks on the modules that own them; inputs are expected on the device. The CPU keeps its
copy, so that removal from the device copies nothing. For inference only: changes to weights on the device are lost.

A transformer's layers that are offloaded one by one are copied at every step. They are kept in pinned memory, so that
the accelerator copies them while it computes (`memory.prefetch`), or without streams in order with its other work.
"""
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from memory.prefetch import Copies, CopyStream, Course, copy_stream

TEXT = "text encoder"


class OffloadedWeights:
    """The parameters and buffers of some modules, kept on the CPU and copied to the device on demand.

    `often`: they will be copied many times, so they are pinned at the first time.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device, often: bool = False):
        self._slots = [(module, name) for module in modules for kind in (module.named_parameters, module.named_buffers)
                       for name, _ in kind(recurse=False)]
        self._device = device
        self._to_pin = often and device.type != "cpu"
        self._waiting: list[Tensor] | None = None

    def bring(self) -> None:
        """Copy the tensors to the device, unless they are there."""
        if self._waiting is None:
            self._pin()
            waiting = self._present()
            self._put(self._copies(waiting))
            self._waiting = waiting

    def release(self) -> None:
        """Free the copies on the device and put the CPU's tensors back in place."""
        if self._waiting is not None:
            self._put(self._waiting)
            self._waiting = None

    def drop(self) -> None:
        """Free the tensors on the device and on the CPU, for good."""
        self.release()
        self._put([_of_its_kind(tensor, torch.empty(0)) for tensor in self._present()])

    def _pin(self) -> None:
        """Move the tensors to pinned memory, at the first time."""
        if self._to_pin:
            self._to_pin = False
            self._put([_of_its_kind(tensor, pinned(tensor.data)) for tensor in self._present()])

    def _copies(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        distinct = {id(tensor): tensor for tensor in tensors}  # T5 shares a tensor between two modules
        here = {key: _of_its_kind(tensor, copied(tensor.data, self._device)) for key, tensor in distinct.items()}
        return [here[id(tensor)] for tensor in tensors]

    def _present(self) -> list[Tensor]:
        return [getattr(module, name) for module, name in self._slots]

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for (module, name), tensor in zip(self._slots, tensors, strict=True):
            setattr(module, name, tensor)


class PrefetchedWeights(OffloadedWeights):
    """The weights of a layer, which `fetch` copies to the device ahead of `bring`."""

    def __init__(self, layer: nn.Module, line: CopyStream):
        super().__init__([layer], line.device, often=True)
        self._line = line
        self._coming: Copies | None = None

    def fetch(self) -> None:
        """Start to copy the tensors to the device, unless they are on their way or there."""
        if self._coming is None:
            self._pin()
            self._coming = self._line.start([tensor.data for tensor in self._present()])

    def leave(self) -> None:
        """Give the buffers back, unless the tensors are in place on the device."""
        if self._coming is not None and self._waiting is None:
            self._line.give_back(self._coming)
            self._coming = None

    def release(self) -> None:
        super().release()
        self.leave()

    def _copies(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        self.fetch()
        assert self._coming is not None
        self._line.wait(self._coming)
        return [_of_its_kind(tensor, buffer) for tensor, buffer in zip(tensors, self._coming.buffers, strict=True)]


def _of_its_kind(tensor: Tensor, data: Tensor) -> Tensor:
    """Return `data` as a parameter if `tensor` is one, else unchanged."""
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def copied(data: Tensor, device: torch.device) -> Tensor:
    """Copy weights to the device; all copies of offloaded weights are made here."""
    return data.to(device, non_blocking=True)  # the CPU goes on; work queued later on the device runs after the copy


def pinned(data: Tensor) -> Tensor:
    """Copy a tensor to pinned memory; quantized weights, which consist of several tensors, are returned unchanged.

    Raises ConfigError if the machine has too little pinned memory.
    """
    try:
        return data.pin_memory() if type(data) is Tensor else data
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"args.offload is sequential, but the transformer's layers cannot be kept in pinned memory "
                          f"({reason}); use args.offload=model, or args.quantize_transformer") from error


class Offload:
    """Hooks that copy each of `parts` to the device when one of its modules is called, and free the part before it.

    The modules must be on the CPU, and are called as before. In the parts named in `by_layer`, each layer with a weight
    is copied and freed by itself, ahead of its use unless it belongs to the text encoder, whose layers are called only
    once a prompt. The small rest (position tables, LoRA's matrices) is copied with the part; so are
    embeddings, because a text encoder takes the device of its tokens from them.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]], device: torch.device, by_layer: Collection[str] = ()):
        self.device = device
        self._parts: dict[str, OffloadedWeights] = {}
        self._layers: dict[str, list[OffloadedWeights]] = {}
        self._courses: dict[str, Course] = {}
        for name, called in parts.items():
            modules = dict.fromkeys(m for root in called for m in root.modules())
            layers = {}
            if name in by_layer:
                layers = dict.fromkeys(m for m in modules if _is_layer(m))
            self._parts[name] = OffloadedWeights([m for m in modules if m not in layers], device)
            for root in called:
                root.register_forward_pre_hook(lambda module, args, name=name: self.bring(name))
            line = copy_stream(device) if layers and name != TEXT else None
            if line is not None:
                self._courses[name] = Course(line)
            self._layers[name] = [_offload_layer(layer, device, name != TEXT, self._courses.get(name))
                                  for layer in layers]

    def bring(self, name: str) -> None:
        """Copy a part to the device after freeing every other part there."""
        for other, weights in self._parts.items():
            if other != name:
                weights.release()
                if other in self._courses:
                    self._courses[other].stop()
        self._parts[name].bring()

    def drop(self, name: str) -> None:
        """Free the weights of a part that will not be called again, on the device and on the CPU."""
        for weights in (self._parts[name], *self._layers[name]):
            weights.drop()


def _is_layer(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.Embedding)


def _offload_layer(layer: nn.Module, device: torch.device, often: bool, course: Course | None) -> OffloadedWeights:
    """Hook a layer so that its weights are on the device only during its forward pass, or if `course` says so before.

    Quantized weights consist of several tensors and are copied when they are needed.
    """
    plain = all(type(tensor.data) is Tensor for tensor in layer.parameters(recurse=False))
    if course is not None and plain:
        ahead = PrefetchedWeights(layer, course.line)
        layer.register_forward_pre_hook(_untraced(lambda module, args: course.call(ahead)))
        weights: OffloadedWeights = ahead
    else:
        weights = OffloadedWeights([layer], device, often)
        layer.register_forward_pre_hook(_untraced(lambda module, args: weights.bring()))
    layer.register_forward_hook(_untraced(lambda module, args, output: weights.release()), always_call=True)
    return weights


def _untraced(hook: Callable) -> Callable:
    """Return a hook that torch.compile leaves to Python; without a compiled network its compiler is not loaded."""
    return torch.compiler.disable(hook) if "torch._dynamo" in sys.modules else hook


def offload_engine(engine, how: str, device: torch.device) -> None:
    """Make an engine on the CPU compute on `device`, with its weights offloaded.

    `how` is "model": one of text encoder, transformer(s), VAE encoder and VAE decoder at a time is on the device; or
    "sequential": of the first two, one layer at a time.
    """
    vae = engine.first_stage_model
    transformers = [model for model in (engine.model, engine.weak_model) if model is not None]
    parts = {TEXT: list(engine.conditioner.embedders), "transformer": transformers,
             "VAE encoder": [vae.encoder], "VAE decoder": [vae.decoder]}
    engine.offload = Offload(parts, device, (TEXT, "transformer") if how == "sequential" else ())


def offload_conditioner(conditioner, how: str, device: torch.device) -> None:
    """Make a conditioner on the CPU compute on `device`, with its weights offloaded as `offload_engine` does it."""
    Offload({TEXT: list(conditioner.embedders)}, device, (TEXT,) if how == "sequential" else ())
