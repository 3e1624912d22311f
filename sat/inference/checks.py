"""Checks of a sampling run: everything that can be wrong is looked for before any weights are read."""
import logging
from collections.abc import Iterable, Mapping

from common import ranks
from common.errors import ConfigError
from configuration.model import MAX, ModelConfig
from configuration.settings import Arguments, SamplingSettings
from configuration.targets import check_data_section, instantiate_from_config
from engine.checks import check_device, check_model
from engine.first_stage import make_tiling, require_weights
from engine.process_checks import check_sequence_parallel, check_shared, merge_size_keys
from inference.continuing import check_segments
from inference.lengths import prepare_length
from inference.overlap import check_overlap
from inference.prompts import Prompt, Source
from inference.sizes import ModelLimits, check_holdable, model_limits, plan_video
from inference.starting_clips import check_start, starts_from_clips, warn_idle
from media.videos import check_encoder
from memory.quantization import check_quantization
from weights.checkpoint import check_there
from weights.diffusers_schedule import schedule_doubts
from weights.lora import configure_lora
from weights.network import check_network

logger = logging.getLogger(__name__)


def check_division(args: Arguments) -> None:
    """Raise ConfigError if the model cannot be divided among processes as the settings ask."""
    merge_size_keys(args)
    check_shared(args.run, args.config)
    check_sequence_parallel(args.run, args.sampling, args.config)


def check_run(args: Arguments) -> ModelLimits:
    """Return the limits of the model after checking configuration, checkpoint and sizes.

    The network's positions are extended to the video's length, and a LoRA is added to its configuration. Raises
    ConfigError or CheckpointError.
    """
    check_there(args.run.load)
    model = check_model(args.model_config)
    require_weights(model.first_stage_config)
    check_device(model, args.run.device, args.run.dtype)
    _check_graphs(args, model)
    check_overlap(args)
    args.config.data = check_data_section(args.data_config)
    _check_image_input(model, args.sampling.image2video)
    check_negative_prompt(args.sampling.negative_prompt)
    weights = args.run.weights
    limits = model_limits(args.model_config)
    check_holdable(plan_video(limits, args.sampling))
    if (told := prepare_length(args.model_config, limits, args.sampling)) is not None:
        logger.warning("%s", told)
    configure_lora(args.model_config, args.run)
    check_network(args.model_config.network_config, weights)
    for doubt in schedule_doubts(weights, args.model_config):
        logger.warning("%s; set it as the folder has it, unless another is meant", doubt)
    _check_batch(args.sampling, model)
    check_start(args.sampling, model, plan_video(limits, args.sampling).latent_frames)
    check_segments(args.sampling, limits, model.sampler)
    warn_idle(args.sampling, model)
    check_quantization(args.memory, args.run.device)
    if not args.sampling.only_save_latents:
        check_encoder()
    make_tiling(args.autoencoder)
    if args.sampling.input_type == "cli" and ranks.world_size() > 1:
        raise ConfigError("args.input_type is cli, but several processes cannot share a keyboard; give the prompts in "
                          "a file, args.input_type=txt")
    return limits


def _check_batch(settings: SamplingSettings, model: ModelConfig) -> None:
    """Raise ConfigError for batches of a guider that would let a video depend on the others of its batch."""
    thresholding = getattr(instantiate_from_config(model.sampler).guider, "dyn_thresh", None)
    if settings.batch_size > 1 and getattr(thresholding, "of_batch", False):
        raise ConfigError(f"args.batch_size is {settings.batch_size}, and {type(thresholding).__name__} takes what it "
                          "limits from all videos of a batch, so that each would depend on the others; set it to 1, or "
                          "use PercentileThresholding")


def _check_graphs(args: Arguments, model: ModelConfig) -> None:
    """Raise ConfigError for weights that do not stay where a graph of the device would read them."""
    if model.compile_model != MAX:
        return
    remedy = "use true or regional, or leave the other out"
    if args.memory.offload is not None:
        raise ConfigError(f"model.compile_model: {MAX} needs weights that stay in their place, so it does not work "
                          f"with args.offload; {remedy}")
    if args.run.model_parallel_size > 1:
        raise ConfigError(f"model.compile_model: {MAX} does not work with args.model_parallel_size above 1, whose "
                          f"processes exchange tensors between layers; {remedy}")


def source_of_prompts(settings: SamplingSettings, model_config: Mapping) -> Source | None:
    """Return what every prompt names beside its text: a clip, a control clip, an image, or nothing.

    A model that was trained without some of its control clips does without one.
    """
    image_input = model_config.get("noised_image_input")
    if model_config.get("control_input"):
        return "control if any" if model_config.get("control_dropout") else "control"
    if starts_from_clips(settings) or settings.continue_from is not None and settings.segments is None:
        return "clip"
    if settings.segments is not None:
        return "image or clip" if image_input else "clip if any"
    return "image" if image_input else None


def check_prompts(model_config: Mapping, prompts: Iterable[Prompt]) -> None:
    """Raise ConfigError for a prompt with a last picture that the model cannot be given."""
    for prompt in prompts:
        if prompt.last is not None and model_config.get("noised_image_all_concat"):
            raise ConfigError(f"prompt {prompt.index} ends with {prompt.last}, but model.noised_image_all_concat gives "
                              "every latent frame the first picture; leave the last one out")


def check_negative_prompt(text: str | None) -> None:
    """Raise ConfigError for bytes that are no text, which the command line hands on, and for zero characters."""
    check_text(text or "", "args.negative_prompt")


def check_text(text: str, where: str) -> None:
    """Raise ConfigError for a text with zero characters, or with bytes that are none."""
    try:
        whole = "\0" not in text.encode().decode()
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise ConfigError(f"{where} is {text!a}, which is not UTF-8 text; write it as prompts are written")


def _check_image_input(model: ModelConfig, wanted: bool | None) -> None:
    if wanted not in (None, model.noised_image_input):
        raise ConfigError(f"args.image2video is {str(wanted).lower()}, but model.noised_image_input "
                          f"is {str(model.noised_image_input).lower()}; leave args.image2video out")
