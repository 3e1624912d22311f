"""The plan that `--plan` logs before anything is loaded: video, work, memory, time, and a remedy if memory is short."""
import logging
from collections.abc import Iterator, Mapping

from common.listing import listed
from configuration.model import ModelConfig
from configuration.settings import Arguments, RunSettings, SamplingSettings
from configuration.targets import instantiate_from_config
from dry_run.memory import DECODER, TRANSFORMERS, WEAK, Estimate, estimate, free_memory, text_cost
from dry_run.passes import network_calls, skips_of
from dry_run.skips import told
from dry_run.work import Rates
from engine.checks import check_structure, typed_model
from engine.stored_text import stored_file
from engine.text_encoder import t5_configs
from inference.continuing import Segments, check_segments, segments_of
from inference.lengths import prepare_length
from inference.overlap import check_overlap
from inference.sizes import ModelLimits, VideoPlan, model_limits, plan_video, warn_sizes
from inference.starting_clips import check_start, warn_idle
from inference.text_embeddings import lacking_texts
from weights.lora import configure_lora

logger = logging.getLogger(__name__)

ROOM = 0.9  # share of the free memory that can be used: allocators leave gaps
# Changes of arguments, tried in this order until one makes the run fit.
CHANGES = ({"overlap": None}, {"bf16": True}, {"batch_size": 1}, {"offload": "model"}, {"vae_tiling": True},
           {"offload": "model", "vae_tiling": True}, {"offload": "sequential"},
           {"offload": "sequential", "vae_tiling": True})


def show_plan(args: Arguments) -> None:
    """Log the plan line by line.

    Raises ConfigError for a wrong model configuration or a video that the model cannot make, and CheckpointError for a
    LoRA of another model.
    """
    for line in plan_lines(args, planned_model(args)):
        logger.info("%s", line)


def planned_model(args: Arguments) -> ModelConfig:
    """Return the model's configuration, with positions for the video and with its LoRA. Raises as `show_plan` does."""
    check_structure(typed_model(args.model_config))
    if (told := prepare_length(args.model_config, model_limits(args.model_config), args.sampling)) is not None:
        logger.warning("%s", told)
    configure_lora(args.model_config, args.run)
    model = ModelConfig.read(args.model_config)
    limits = model_limits(args.model_config)
    check_start(args.sampling, model, plan_video(limits, args.sampling).latent_frames)
    check_segments(args.sampling, limits, model.sampler)
    check_overlap(args)
    warn_idle(args.sampling, model)
    return model


def plan_lines(args: Arguments, model: ModelConfig) -> Iterator[str]:
    """Yield the lines of the plan."""
    limits = model_limits(args.model_config)
    counter = skips_of(args, model)
    segments = segments_of(args.sampling, limits)
    plan = plan_video(limits, args.sampling)
    warn_sizes(limits, [plan])
    calls = network_calls(args.sampling, model, counter, segments, plan.latent_frames)
    if args.sampling.save_text_embeddings is not None:
        yield from _text_alone(args, model)
        return
    yield from _video(args.sampling, model, limits, plan)
    yield from _segments(segments, args.sampling, plan)
    yield from _conditioning(model, args)
    passes = [call.rows for part in calls.values() for call in part]
    rows = max(passes, default=args.sampling.batch_size)
    steps = instantiate_from_config(model.sampler).num_steps
    sampler = model.sampler["target"].rpartition(".")[2]
    weak = f", {len(calls[WEAK])} of them of the weaker one" if calls[WEAK] else ""
    yield (f"work: {steps} steps of {sampler}, {len(passes)} forward passes of the transformer{weak}, each of at most "
           f"{rows} rows (branches of all videos)")
    if model.step_cache_config is not None:
        yield f"step cache: {'known when sampling' if counter is None else told(counter.skipped)}"
    needed = estimate(args, model, plan, rows)
    yield from _memory(needed)
    yield from _fit(args, model, plan, rows, needed)
    batch_size = args.sampling.batch_size
    computed = 1 - (sum(counter.skipped) / len(passes) if counter is not None and passes else 0)
    per_row = {part: computed * sum(call.rows * call.share for call in found) / rows for part, found in calls.items()}
    seconds = _seconds(args.run, needed, batch_size, per_row)
    yield (f"time: about {duration(seconds)} for {batch_size} video(s) on {args.run.device}, from its "
           "measured rates of products, attention, convolutions and memory; loading not counted")


def _segments(segments: Segments | None, settings: SamplingSettings, plan: VideoPlan) -> Iterator[str]:
    if segments is None:
        return
    new = plan.frames - segments.kept_frames
    kept = f"the last {segments.kept} latent frames ({segments.kept_frames} frames) of what was before"
    length = f"the clip and {segments.count * new} new frames"
    if settings.segments is not None:
        length = f"{segments.frames(plan.frames)} frames; after a clip, {length}"
    yield f"segments: {segments.count} of {plan.frames} frames, which keep {kept}; the whole video: {length}"


def _video(settings: SamplingSettings, model: ModelConfig, limits: ModelLimits, plan: VideoPlan) -> Iterator[str]:
    asked = settings.num_frames or settings.sampling_num_frames
    counted = "" if asked in (None, plan.frames) else f" (asked: {asked} latent frames)"
    yield f"video: {plan.frames} frames{counted} of {plan.height} x {plan.width} at {plan.fps} fps"
    padding = "" if not plan.pad_latents else f"; the first {plan.pad_latents} padding, dropped before decoding"
    yield (f"latents: {plan.latent_frames} frames of {plan.latent_height} x {plan.latent_width}, {plan.channels} "
           f"channels{padding}")
    params = model.network_config["params"]
    t, h, w = plan.patches
    table = limits.sampled_latents(params["num_frames"]), params["latent_height"], params["latent_width"]
    full = tuple(size // patch for size, patch in zip(table, limits.patch, strict=True))
    if model.time_windows is not None:
        frames = min(plan.latent_frames, model.time_windows[0]) // limits.patch[0]
        noisy = "" if model.windows_below is None else f" where sigma / alpha is at most {model.windows_below:g}"
        crop = f", of which each window has {frames} x {h} x {w}{noisy}"
    else:
        way = "scaled to" if limits.largest is None else "cropped from"
        crop = "" if plan.patches == full else f", {way} positions for {full[0]} x {full[1]} x {full[2]}"
    text = (params["modules"]["pos_embed_config"].get("params") or {}).get("text_length", 0)
    yield f"tokens: {text} of text and {t * h * w} of video ({t} x {h} x {w} patches{crop})"
    if model.control_input:
        yield (f"control clips: {plan.frames} frames at {plan.fps} fps, resized to cover {plan.height} x {plan.width}, "
               f"cropped at the centre{'; zeros for a prompt without one' if model.control_dropout else ''}")
    if model.noised_image_input:
        yield (f"images: resized to cover {plan.height} x {plan.width}, cropped at the centre"
               if not limits.size_from_image else
               f"images: resized to a short side of {min(plan.height, plan.width)}; the video takes their shape")


def _conditioning(model: ModelConfig, args: Arguments) -> Iterator[str]:
    stored = stored_file(model)
    if stored is not None:
        length, width, dtype = (stored.encoder[key] for key in ("max_length", "width", "dtype"))
        yield (f"conditioning: text embeddings of {length} x {width} in {dtype} from {stored.path}, which has "
               f"{len(stored)} text(s); no text encoder is loaded")
        lacking = lacking_texts(stored, args)
        if lacking:
            yield (f"the run will not start: {stored.path} lacks {len(lacking)} of its text(s): "
                   f"{listed(map(repr, lacking))}")
    for embedder in t5_configs(model):
        yield f"conditioning: text embeddings by the text encoder in {embedder.get('model_dir')}"


def _text_alone(args: Arguments, model: ModelConfig) -> Iterator[str]:
    """Yield the lines of a run that writes text embeddings, for which only the text encoder is loaded."""
    cost = text_cost(model, args.run.dtype, args.memory.quantize_t5 is not None)
    yield from _conditioning(model, args)
    yield f"text embeddings of the prompts go to {args.sampling.save_text_embeddings}; no video is made"
    yield (f"memory: {shown_size(cost.weights + cost.activations)} on {args.run.device} (text encoder), which has "
           f"{shown_size(free_memory(args.run.device))} free; Python and its libraries not counted")


def _memory(needed: Estimate) -> Iterator[str]:
    weights = ", ".join(f"{name} {shown_size(cost.weights)}" for name, cost in needed.costs.items())
    on_top = ", ".join(f"{name} {shown_size(needed.costs[name].activations)}" for name in needed.phases
                       if name in needed.costs)
    yield f"weights: {weights}"
    yield f"activations: {on_top}"


def _fit(args: Arguments, model: ModelConfig, plan: VideoPlan, rows: int, needed: Estimate) -> Iterator[str]:
    free, (phase, peak) = free_memory(args.run.device), needed.peak
    yield (f"memory: at most {shown_size(peak)} on {args.run.device} ({phase}), which has {shown_size(free)} free; "
           "Python and its libraries not counted")
    if peak > ROOM * free:
        yield f"the run will not fit; {_remedy(args, model, plan, rows, needed, ROOM * free)}"


def _remedy(args: Arguments, model: ModelConfig, plan: VideoPlan, rows: int, needed: Estimate, room: float) -> str:
    for change in CHANGES:
        same = args.changed(**change) == args
        if same or (args.run.fp16 and "bf16" in change) or (args.run.device.type == "cpu" and "offload" in change):
            continue
        changed = args.changed(**change)
        known = None
        if not change.keys() & {"bf16", "batch_size"}:  # which change the transformer's cost
            known = {name: cost for name, cost in needed.costs.items() if name in TRANSFORMERS}
        changed_rows = rows * changed.sampling.batch_size // args.sampling.batch_size
        _, peak = estimate(changed, model, plan, changed_rows, known).peak
        if peak <= room:
            settings = " ".join(f"args.{key}={'null' if value is None else str(value).lower()}"
                                for key, value in change.items())
            return f"with {settings} it needs {shown_size(peak)}"
    return "make the video shorter (--num-frames) or smaller (--sampling-image-size), or quantize (args.quantize_*)"


def _seconds(run: RunSettings, needed: Estimate, batch_size: int, passes: Mapping[str, float]) -> float:
    """Return the seconds that a run will take; `passes` is how often all rows go through each transformer."""
    work = needed.costs[DECODER].work * batch_size
    for part, count in passes.items():
        if part in needed.costs:
            work += needed.costs[part].work * count
    return Rates.of(run.device, run.dtype).seconds(work)


def shown_size(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return seconds in words, to a tenth of the unit."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
