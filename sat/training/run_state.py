"""The state of a run, from which it resumes exactly, and the weights that a new run starts from.

A run that trains only a LoRA stores the LoRA's weights and a digest of the model's weights.
"""
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import CheckpointError, ConfigError
from common.kinds import Count
from common.listing import listed
from common.typed import check_names, missing, typed
from configuration.settings import Arguments
from configuration.yaml_files import MODEL_PATHS, plain
from engine.first_stage import first_stage_weights
from engine.t5_files import check_t5_folder
from training.continuation import WEIGHTS_OF
from training.data.marks import Marked, changed
from weights.checkpoint import describe_mismatches, load_module
from weights.identity import identity
from weights.lora import header_of, lora_of, trains_only_lora
from weights.lora_names import is_matrix, without_lora
from weights.sources import transformer_weights

logger = logging.getLogger(__name__)

# Keys of `args` that a resumed run must not change: of every run, and of the transformer's.
FIXED_KEYS = ("seed",)
FIXED_FOR_TRANSFORMER = (*FIXED_KEYS, "train_iters", "warmup_iters", "lr_decay", "final_lr_share", "ema_decay",
                         "last_frame_rate", "first_frame_variants", "vae_tiling", "vae_tile_size", "vae_tile_overlap",
                         "vae_encode_in_chunks")
# Keys below `model` that may change, since they affect only samples or only memory.
TRANSFORMER_ARGS = "model.network_config.params.transformer_args"
CHANGEABLE_KEYS = ("model.sampler_config", f"{TRANSFORMER_ARGS}.checkpoint_activations",
                   f"{TRANSFORMER_ARGS}.offload_activations")
BASE, MATRICES = "base_digest", "matrices_digest"
SAMPLED = 256  # values of a matrix that count in a digest
PATCH_EMBEDDING = "mixins.patch_embed.proj.weight"


@dataclass(frozen=True)
class RunState:
    """The state of one process after `step` optimizer steps."""

    step: Count
    network: Mapping[str, Tensor]  # as trained, not averaged; if only a LoRA is trained, the LoRA alone
    average: Mapping[str, Tensor]
    optimizer: Mapping | tuple[Mapping, ...]  # all processes' parts, if the run had another number of them
    settings: Mapping
    lora: Mapping | None = None  # if only a LoRA is trained: its header, and a digest of the model's weights
    clips: tuple[int, ...] = ()  # number in each bucket, which determines their order; empty in older files
    marks: tuple[tuple[str, ...], ...] = ()  # of the clips of each bucket; empty in older files
    generator: Tensor | None = None  # state of the generator, for a run whose draws all come from one
    discriminator: Mapping | None = None  # its weights and its optimizer's state, for a run that trains one


def state_of(content: Mapping, file: Path) -> RunState:
    """Return the state that a file holds. Raises CheckpointError if it holds something else."""
    try:
        check_names(RunState, content, "state")
        if lacking := missing(RunState, content):
            raise ConfigError(f"it lacks {listed(lacking)}")
        return RunState(**typed(RunState, content, "state"))
    except ConfigError as error:
        raise CheckpointError(f"{file} is not the state of a training run: {error}; copy the folder again, or start a "
                              "new run with args.load and another args.save") from error


def transformer_settings(args: Arguments, processes: int) -> dict:
    """Return `settings_of` a run that trains a transformer, and digests of its encoders' weights.

    These are of a run from a cache, too, since the cache may be another one when the run is resumed. The files are
    read: call it once, before the training during which they may go.
    """
    digests = encoders_of(plain(args.model_config))
    return settings_of(args, processes, FIXED_FOR_TRANSFORMER) | digests


def settings_of(args: Arguments, processes: int, fixed: Sequence[str] = FIXED_KEYS) -> dict:
    """Return the settings that must not change when a run is resumed, as flat `key: value`; `fixed` are of `args`."""
    given = vars(args.run) | vars(args.autoencoder) | vars(args.training)
    flat = {f"args.{key}": given[key] for key in fixed} | {"processes": processes}
    for section in ("model", "data", "deepspeed"):
        _flatten(json.loads(json.dumps(plain(args.config[section]))), section, flat)
    return {key: value for key, value in flat.items() if not key.startswith(CHANGEABLE_KEYS)}


def encoders_of(model: Mapping) -> dict[str, str]:
    """Return digests of the weights of autoencoder and text encoders, whose paths may change, but not they."""
    weights = first_stage_weights(model["first_stage_config"])
    given = {} if weights is None else {"autoencoder": identity(weights.source)}
    for number, embedder in enumerate((model["conditioner_config"].get("params") or {}).get("emb_models") or ()):
        own = embedder.get("params") or {}
        if own.get("model_dir") is not None:
            files = check_t5_folder(own["model_dir"], own.get("cache_dir")).weight_files
            given[f"text encoder {number}"] = identity(*files)
    return {f"{WEIGHTS_OF}{name}": digest for name, digest in given.items()}


def weights_of(network: nn.Module) -> tuple[dict[str, Tensor], dict | None]:
    """Return `network` and `lora` of a RunState."""
    if trains_only_lora(network):
        lora = lora_of(network)
        digests = {BASE: _digest_under_lora(network), MATRICES: _digest_of_matrices(network)}
        return dict(lora.matrices), header_of(lora) | digests
    # Copied, because DeepSpeed's weights are views of one flat tensor, and torch.save would write all of it for each.
    return {name: value.to("cpu", copy=True) for name, value in network.state_dict().items()}, None


def restore(network: nn.Module, state: RunState) -> None:
    """Load the weights of a stopped run.

    Raises CheckpointError if they are another model's, or a LoRA that was trained on another model's weights.
    """
    if state.lora is not None and (
            _digest_under_lora(network) != state.lora[BASE]
            or state.lora.get(MATRICES) not in (None, _digest_of_matrices(network))):  # None: of an earlier version
        raise CheckpointError("the run to be resumed trained a LoRA over other weights than those of args.load; set "
                              "args.load as it was, or start a new run with args.load_lora and another args.save")
    own = {name: value for name, value in network.state_dict().items() if state.lora is None or is_matrix(name)}
    _check_same("weights", own, state.network)
    check_average(network, state)
    network.load_state_dict(state.network, strict=False)  # names were checked above


def check_average(network: nn.Module, state: RunState) -> None:
    """Raise CheckpointError unless a state has an average of each trained weight, and no other."""
    _check_same("averages", {name: p for name, p in network.named_parameters() if p.requires_grad}, state.average)


def _check_same(what: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if faults := describe_mismatches(own, saved):
        raise CheckpointError(f"the {what} in the saved state are not those of this model; {faults}; start a new run "
                              "with args.load and another args.save")


def check_same_clips(state: RunState, buckets: Sequence[Marked]) -> None:
    """Raise ConfigError if the buckets do not have the clips and captions of the stopped run, in that order."""
    given, remedy = tuple(map(len, buckets)), "or start a new run with args.load and another args.save"
    if state.clips and state.clips != given:
        raise ConfigError(f"args.train_data had {' + '.join(map(str, state.clips))} clips when the run was stopped and "
                          f"has {' + '.join(map(str, given))} now; restore those clips, {remedy}")
    names = [name for before, bucket in zip(state.marks, buckets, strict=False)
             for name in changed(before, bucket.marks)]
    if names:
        raise ConfigError(f"args.train_data: {len(names)} clips or captions are others than when the run was stopped "
                          f"({listed(names)}); restore them, {remedy}")


def _digest_under_lora(network: nn.Module) -> str:
    # Norms and biases suffice to distinguish models: any training changes them, and they have few elements.
    digest = hashlib.sha256()
    for _, parameter in sorted(network.named_parameters()):
        if not parameter.requires_grad and parameter.ndim == 1:
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _digest_of_matrices(network: nn.Module) -> str:
    """Return a digest of evenly spread values of all frozen matrices, which merging a LoRA changes."""
    digest = hashlib.sha256()
    for _, parameter in sorted(network.named_parameters()):
        if not parameter.requires_grad and parameter.ndim > 1:
            values = parameter.detach().flatten()
            digest.update(values[::max(1, len(values) // SAMPLED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def load_partial(network: nn.Module, path: str, grow_input: bool, lacking: bool = False) -> None:
    """Load the weights of another model, from which training starts.

    With `grow_input` that model may have fewer input channels (text-to-video to image-to-video): the new channels come
    last and their weights are zero, so that the output is at first the old model's. With `lacking` it may lack tensors,
    which keep their initial values. Raises CheckpointError if the weights do not fit.
    """
    state, own = transformer_weights(path).read(), without_lora(network.state_dict())
    if grow_input:
        _grow(state, own[PATCH_EMBEDDING], path)
    if lacking:
        missing = [name for name in own if name not in state]
        if missing:
            logger.warning("%s lacks %d of %d tensors, which keep their initial values: %s", path, len(missing),
                           len(own), listed(missing))
        state |= {name: own[name] for name in missing}
    load_module(network, state, path)


def _grow(state: dict[str, Tensor], wanted: Tensor, path: str) -> None:
    given = state.get(PATCH_EMBEDDING)
    if given is None or given.ndim != wanted.ndim or given.shape[1] > wanted.shape[1]:
        raise CheckpointError(f"args.grow_input: {path} has no {PATCH_EMBEDDING} of at most {wanted.shape[1]} input "
                              "channels")
    state[PATCH_EMBEDDING] = torch.zeros(len(given), *wanted.shape[1:], dtype=given.dtype)
    state[PATCH_EMBEDDING][:, :given.shape[1]] = given
    logger.info("loaded %s; the weights of %d new input channels of the patch embedding are zero", path,
                wanted.shape[1] - given.shape[1])


def _flatten(value, name: str, into: dict) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in MODEL_PATHS:  # paths may change when folders move
                _flatten(item, f"{name}.{key}", into)
    else:
        into[name] = value
