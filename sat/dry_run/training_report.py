"""The plan that `train_video.py --plan` logs: memory by part and phase, and a remedy if it is short."""
import copy
import logging
from collections.abc import Iterator, Sequence

from omegaconf import OmegaConf

from configuration.model import ModelConfig
from configuration.settings import Arguments
from dry_run.between_steps import SAMPLING, VALIDATION
from dry_run.memory import free_memory
from dry_run.report import ROOM, shown_size
from dry_run.training import BACKWARD, ENCODING, FILLING, TrainingEstimate, estimate_training
from media.clips import ClipFormat

logger = logging.getLogger(__name__)

RECOMPUTE = "model.network_config.params.transformer_args.checkpoint_activations"
ONE_CLIP, ZERO = "deepspeed.train_micro_batch_size_per_gpu", "deepspeed.zero_optimization"
# Changes of keys, tried in this order, one added to the other, until the run fits.
CHANGES = (("args.vae_tiling", True), ("args.vae_encode_in_chunks", True), ("args.eval_batch_size", 1),
           (RECOMPUTE, True), (ONE_CLIP, 1), ("deepspeed.optimizer.type", "AdamW8bit"), (f"{ZERO}.stage", 2),
           (f"{ZERO}.offload_optimizer", {"device": "cpu"}))
# The phases that a change makes smaller; the other changes make all phases smaller.
PHASES = {"args.vae_tiling": (ENCODING, FILLING, VALIDATION, SAMPLING), "args.eval_batch_size": (VALIDATION,),
          "args.vae_encode_in_chunks": (ENCODING, FILLING, VALIDATION), RECOMPUTE: (BACKWARD,),
          ONE_CLIP: (BACKWARD, ENCODING, VALIDATION)}


def show_training_plan(args: Arguments, forms: Sequence[ClipFormat]) -> None:
    """Log the plan of a run whose settings are checked, for the largest of its clips' forms."""
    for line in training_plan(args, max(forms, key=_pixels)):
        logger.info("%s", line)


def training_plan(args: Arguments, form: ClipFormat) -> Iterator[str]:
    """Yield the lines of the plan."""
    needed = estimate_training(args, ModelConfig.read(args.model_config), form)
    yield from _run(args, needed, form)
    yield "memory by part: " + ", ".join(f"{name} {shown_size(size)}" for name, size in needed.parts.items()) + (
        f", activations {shown_size(needed.network.activations)}")
    if needed.host:
        yield f"in CPU memory: {shown_size(needed.host)} (the optimizer with its gradients)"
    yield "memory by phase: " + ", ".join(f"{name} {shown_size(size)}" for name, size in needed.phases.items())
    free, (phase, peak) = free_memory(args.run.device), needed.peak
    yield (f"memory: at most {shown_size(peak)} of each process on {args.run.device} ({phase}), which has "
           f"{shown_size(free)} free; Python, its libraries and gaps between blocks of memory not counted")
    if peak > ROOM * free:
        yield f"the run will not fit; {_remedy(args, form, ROOM * free)}"


def _run(args: Arguments, needed: TrainingEstimate, form: ClipFormat) -> Iterator[str]:
    division, network, (height, width) = needed.division, needed.network, form.video_size
    yield (f"training: {network.elements / 1e6:.2f} M parameters, beside {network.frozen / 1e6:.2f} M that are frozen, "
           f"in {str(args.run.dtype).removeprefix('torch.')}; {division.optimizer}, ZeRO stage {division.stage}, "
           f"{division.processes} process(es)")
    cached = "without a latent cache" if args.training.latent_cache is None else "from a latent cache"
    yield (f"a step: {division.passes} pass(es) of {division.clips} clip(s) on each process, of at most "
           f"{form.max_num_frames} frames of {height} x {width}, {cached}")


def _remedy(args: Arguments, form: ClipFormat, room: float) -> str:
    """Return the changes with which the run fits, of which each makes the phase smaller that was the largest."""
    words, waiting = [], list(CHANGES)
    needed = estimate_training(args, ModelConfig.read(args.model_config), form)
    while needed.peak[1] > room:
        phase, size = needed.peak
        change = next((each for each in waiting if phase in PHASES.get(each[0], (phase,))), None)
        if change is None:
            return ("take smaller or shorter clips (data.params), or divide the weights among more processes with ZeRO "
                    "stage 3")
        waiting.remove(change)
        changed = _with(args, *change)
        less = estimate_training(changed, ModelConfig.read(changed.model_config), form)
        if less.phases.get(phase, 0) < size:
            args, needed = changed, less
            words.append("{}={}".format(*change).replace("True", "true").replace("'", ""))
    return f"with {' '.join(words)} it needs {shown_size(needed.peak[1])}"


def _with(args: Arguments, key: str, value) -> Arguments:
    """Return a copy of the arguments in which a key has this value."""
    section, name = key.split(".", 1)
    if section == "args":
        return args.changed(**{name: value})
    changed = copy.deepcopy(args)
    OmegaConf.update(changed.config, key, value, force_add=True)
    return changed


def _pixels(form: ClipFormat) -> int:
    height, width = form.video_size
    return form.max_num_frames * height * width
