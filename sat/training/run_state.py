"""Checkpoints of a run: averaged weights to sample with, and everything that an exact continuation needs.

Beside what `checkpoint.save_checkpoint` writes, `<save>/training/<step>_rank_NN.pt` holds each process's state. It is
on disk before `latest` names the step, so whatever `latest` names can be resumed. A run that trains a LoRA alone keeps
nothing but that in either file, and a digest of the weights under it.
"""
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import parallel
from arguments import Arguments
from checkpoint import NETWORK_PREFIX, load_module, load_network, read_checkpoint, read_state_dict, save_checkpoint
from config_files import MODEL_PATHS
from errors import CheckpointError, ConfigError
from files import whole_file
from lora import HEADER, header_of, lora_of, trains_lora_alone

logger = logging.getLogger(__name__)

# Keys of `args` that decide how training goes on.
DECISIVE = ("seed", "train_iters", "warmup_iters", "lr_decay", "final_lr_share", "ema_decay")
PATCH_EMBEDDING = "mixins.patch_embed.proj.weight"


@dataclass(frozen=True)
class RunState:
    """One process's state after `step` optimizer steps."""

    step: int
    network: Mapping[str, Tensor]  # as trained, not averaged; where a LoRA alone is trained, that alone
    average: Mapping[str, Tensor]
    optimizer: Mapping
    settings: Mapping
    lora: Mapping | None = None  # where a LoRA alone is trained: what its checkpoint tells, and a digest of the rest


def settings_of(args: Arguments, processes: int) -> dict:
    """What must not change between a run and its continuation, as flat `key: value`."""
    flat = {f"args.{key}": getattr(args, key) for key in DECISIVE} | {"processes": processes}
    for section in ("model", "data", "deepspeed"):
        _flatten(json.loads(json.dumps(_plain(args.config[section]))), section, flat)
    return {key: value for key, value in flat.items() if not key.startswith("model.sampler_config")}


def weights_of(network: nn.Module) -> tuple[dict[str, Tensor], dict | None]:
    """`network` and `lora` of a RunState."""
    if trains_lora_alone(network):
        lora = lora_of(network)
        return dict(lora.matrices), header_of(lora) | {"base_digest": _digest_under_lora(network)}
    # Own storage: DeepSpeed's weights are views of one flat tensor, which would be written whole for each.
    return {name: value.clone() for name, value in network.state_dict().items()}, None


def restore(network: nn.Module, state: RunState) -> None:
    """Loads the weights of a stopped run. Raises CheckpointError where those under its LoRA differ from what was."""
    if state.lora is not None and _digest_under_lora(network) != state.lora["base_digest"]:
        raise CheckpointError("the run to be resumed trained a LoRA over other weights than those of args.load; give "
                              "args.load as it was, or start anew with args.load_lora and another args.save")
    network.load_state_dict(state.network, strict=state.lora is None)


def _digest_under_lora(network: nn.Module) -> str:
    # Norms and biases are enough to tell models apart: any training moves them, and they are few.
    digest = hashlib.sha256()
    for _, parameter in sorted(network.named_parameters()):
        if not parameter.requires_grad and parameter.ndim == 1:
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def save(folder: Path, state: RunState, keep: int) -> None:
    """Called by every process; only the last `keep` checkpoints stay."""
    with whole_file(_state_file(folder, state.step)) as path:
        torch.save(asdict(state), path)
    dist.barrier()
    if parallel.is_main_process():
        averaged = {**state.network, **state.average}
        module = {NETWORK_PREFIX + name: value for name, value in averaged.items()}
        header = {} if state.lora is None else {HEADER: state.lora}
        save_checkpoint(folder, state.step, {"module": module, "iteration": state.step} | header)
        _remove_old(folder, keep)
    dist.barrier()


def read_latest(folder: Path, settings: Mapping) -> RunState | None:
    """This process's state at the step that `latest` names; None where nothing was saved yet.

    Raises ConfigError that names what changed since, CheckpointError for files that are missing or damaged.
    """
    if not (folder / "latest").is_file():
        return None
    step = (folder / "latest").read_text().strip()
    file = _state_file(folder, step)
    if not file.is_file():
        raise CheckpointError(f"{folder}/latest names step {step}, but {file} is missing: start as many processes as the "
                              "stopped run had, or start anew with args.load and another args.save")
    state = RunState(**read_checkpoint(file))
    changed = [key for key in sorted({*settings, *state.settings}) if settings.get(key) != state.settings.get(key)]
    if changed:
        listed = ", ".join(f"{key} from {state.settings.get(key)} to {settings.get(key)}" for key in changed[:3])
        raise ConfigError(f"the run in {folder} cannot be resumed with a changed configuration: {listed}; change it "
                          "back, or start anew with args.load and another args.save")
    return state


def check_unused(folder: Path) -> None:
    """Raises ConfigError where a new run would overwrite the checkpoints of another."""
    if (folder / "latest").exists():
        raise ConfigError(f"args.save {folder} holds the checkpoints of a run already; continue it with --resume, or "
                          "choose another folder")


def load_initial(network: nn.Module, path: str, grow_input: bool) -> None:
    """Starts from another model's weights. With `grow_input` it may have fewer input channels (text-to-video to
    image-to-video): the new channels come last and their weights are zero, so the output is the old model's at first.
    """
    if not grow_input:
        load_network(network, path)
        return
    state = {name.removeprefix(NETWORK_PREFIX): value for name, value in read_state_dict(path).items()
             if name.startswith(NETWORK_PREFIX)}
    wanted = network.state_dict()[PATCH_EMBEDDING]
    given = state.get(PATCH_EMBEDDING)
    if given is None or given.ndim != wanted.ndim or given.shape[1] > wanted.shape[1]:
        raise CheckpointError(f"args.grow_input: {path} has no {PATCH_EMBEDDING} of at most {wanted.shape[1]} inputs")
    state[PATCH_EMBEDDING] = torch.zeros(len(given), *wanted.shape[1:], dtype=given.dtype)
    state[PATCH_EMBEDDING][:, :given.shape[1]] = given
    load_module(network, state, path)
    logger.info("started from %s, %d new inputs of the patch embedding at zero", path, wanted.shape[1] - given.shape[1])


def _state_file(folder: Path, step: int | str) -> Path:
    return folder / "training" / f"{step}_rank_{dist.get_rank():02d}.pt"


def _remove_old(folder: Path, keep: int) -> None:
    steps = sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit())
    for step in steps[:-keep]:
        shutil.rmtree(folder / str(step))
        for path in (folder / "training").glob(f"{step}_rank_*.pt"):
            path.unlink()


def _plain(section):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section


def _flatten(value, name: str, into: dict) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in MODEL_PATHS:  # a folder may have moved
                _flatten(item, f"{name}.{key}", into)
    else:
        into[name] = value
