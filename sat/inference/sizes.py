"""The plan of a video: its frames, padding latents and latent sizes, decided before any model is built."""
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.compression import Compression
from common.errors import ConfigError
from common.machine import physical_memory
from common.patches import parse_patch_size
from configuration.settings import RIFLEX, WINDOWS, SamplingSettings
from configuration.yaml_files import require
from engine.latent_shape import SIZE_WITH_TIME_PATCHES
from network.rotary_axes import DIFFUSERS

logger = logging.getLogger(__name__)

# Models with patches of two latent frames have computed, not learned, positions, and were trained up to this length.
LONGEST_WITH_TIME_PATCHES = 161
MOST_BY_RIFLEX, MOST_BY_WINDOWS = 2, 32  # times the trained length; the first is what is published to work untrained


@dataclass(frozen=True)
class ModelLimits:
    """The videos that a model can make, read from its configuration (`model_limits`). Sides are in pixels."""

    frame_counts: tuple[int, ...]  # every video length, in frames
    trained_frames: int  # the longest that the model was trained with
    longer: Mapping[str, int]  # the longest video of each way to exceed that (inference.lengths), the better first
    default_frames: int
    default_size: tuple[int, int]
    side_multiple: int
    largest: tuple[int, int] | None  # None: of any size, because positions are scaled
    patch: tuple[int, int, int]  # of latents: time, height, width
    compression: Compression
    channels: int
    size_from_image: bool  # the video takes the image's shape (the 1.5 models)
    fixed_table: bool  # positions are a flat table, valid only for the size it was made for

    def real_latents(self, frames: int) -> int:
        return self.compression.latent_frames(frames)

    def pad_latents(self, frames: int) -> int:
        """Return how many latent frames are sampled in front, and later dropped, so that patches divide the time."""
        return -self.real_latents(frames) % self.patch[0]

    def sampled_latents(self, frames: int) -> int:
        return self.real_latents(frames) + self.pad_latents(frames)


@dataclass(frozen=True)
class VideoPlan:
    """The sizes of a video as written (frames, height, width, fps) and as sampled (latent sizes, patches)."""

    frames: int
    height: int
    width: int
    fps: int
    channels: int
    latent_frames: int
    pad_latents: int
    latent_height: int
    latent_width: int
    patches: tuple[int, int, int]  # time, height, width; each patch is a token

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """The latent's shape (T, C, H, W) in the sampler, with padding."""
        return self.latent_frames, self.channels, self.latent_height, self.latent_width


def model_limits(model: Mapping) -> ModelLimits:
    """Return the limits of a `model` configuration. Raises ConfigError if network and autoencoder disagree."""
    network = require(model["network_config"].get("params"), "model.network_config.params", "num_frames",
                      "time_compressed_rate", "latent_height", "latent_width", "patch_size", "out_channels", "modules")
    codec = require(model["first_stage_config"].get("params"), "model.first_stage_config.params", "decoder_config")
    decoder = require(codec["decoder_config"].get("params"), "decoder_config.params", "z_channels")
    positions = require(network["modules"], "modules", "pos_embed_config")["pos_embed_config"]
    patch = parse_patch_size(network["patch_size"])
    compression = Compression.of_first_stage(model["first_stage_config"])
    if network["time_compressed_rate"] != compression.time:
        raise ConfigError(f"model.network_config.params.time_compressed_rate is {network['time_compressed_rate']}, but "
                          f"the autoencoder compresses time by {compression.time}; make them equal")
    if decoder["z_channels"] != network["out_channels"]:
        raise ConfigError(f"model.network_config.params.out_channels is {network['out_channels']}, but the "
                          f"autoencoder's latent has z_channels {decoder['z_channels']}; make them equal")
    given = positions.get("params") or {}
    learned = bool(given.get("learnable_pos_embed"))
    fixed = learned or not positions["target"].endswith("Rotary3DPositionEmbeddingMixin")
    longest = network["num_frames"]
    if patch[0] > 1 and not fixed:
        longest = max(longest, LONGEST_WITH_TIME_PATCHES)
    # Decoding needs an odd number of latent frames (vae_modules.autoencoder.decode_schedule), so lengths differ by
    # pairs of patches.
    step = 2 * compression.time * patch[0]
    trained_frames = (longest - 1) // step * step + 1
    riflex = not fixed and given.get("riflex") is not False
    longer = {way: times * (trained_frames - 1) + 1 for way, times in _ways(model, riflex).items()}
    counts = tuple(range(1, max(trained_frames, *longer.values(), 0) + 1, step))
    largest = compression.video_size(network["latent_height"], network["latent_width"])
    trained = largest
    if patch[0] > 1:
        trained = min(SIZE_WITH_TIME_PATCHES[0], largest[0]), min(SIZE_WITH_TIME_PATCHES[1], largest[1])
    scaled = not fixed and given.get("other_sizes") == DIFFUSERS
    return ModelLimits(
        frame_counts=counts, trained_frames=trained_frames, longer=longer,
        default_frames=max(c for c in counts if c <= network["num_frames"]), default_size=trained,
        side_multiple=compression.space * max(patch[1:]), largest=None if scaled else largest, patch=patch,
        compression=compression, channels=network["out_channels"], size_from_image=patch[0] > 1, fixed_table=fixed)


def _ways(model: Mapping, riflex: bool) -> dict[str, int]:
    """Return the ways in which a model can exceed its trained length, and how many times, the better way first.

    Image-to-video models have none: RIFLEx harms them, and an image would reach the first window alone. Models with
    control input have windows, each with its stretch of the control clip.
    """
    if model.get("noised_image_input"):
        return {}
    windowed = model.get("time_windows") is not None or model.get("windows_below") is not None
    known = riflex and not windowed and not model.get("control_input")
    by_positions = {RIFLEX: MOST_BY_RIFLEX} if known else {}
    return by_positions | {WINDOWS: MOST_BY_WINDOWS}


def plan_video(limits: ModelLimits, settings: SamplingSettings, size: Sequence[int] | None = None) -> VideoPlan:
    """Return the plan of the video that `settings` describe, of `size` (height, width) if an image decides it.

    Raises ConfigError for a frame count or size that the model cannot make, naming the nearest that it can.
    """
    frames = choose_frames(limits, settings.num_frames, settings.sampling_num_frames)
    height, width = choose_size(limits, size or settings.sampling_image_size)
    if settings.latent_channels != limits.channels:
        raise ConfigError(f"args.latent_channels is {settings.latent_channels}, but the model's latent has "
                          f"{limits.channels} channels; set it to {limits.channels}")
    latent = limits.sampled_latents(frames), *limits.compression.latent_size(height, width)
    time, rows, columns = (size // patch for size, patch in zip(latent, limits.patch, strict=True))
    return VideoPlan(
        frames=frames, height=height, width=width, fps=settings.sampling_fps, channels=limits.channels,
        latent_frames=latent[0], latent_height=latent[1], latent_width=latent[2],
        pad_latents=limits.pad_latents(frames),
        patches=(time, rows, columns))


def check_holdable(plan: VideoPlan, videos: int = 1) -> None:
    """Raise ConfigError if a batch of videos would not fit into this machine's memory, whatever else it took.

    Latents, their noise and a step's result are 32-bit, the frames of one video 8-bit.
    """
    needed = videos * 3 * 4 * math.prod(plan.latent_shape) + 3 * plan.frames * plan.height * plan.width
    there = physical_memory()
    if needed > there:
        raise ConfigError(f"{videos} video(s) at a time of {plan.frames} frames of {plan.height} x {plan.width} take "
                          f"more than {needed / 1e9:.0f} GB, and this machine has {there / 1e9:.0f} GB; make them "
                          "shorter or smaller, or lower args.batch_size; --plan shows what a run takes")


def choose_frames(limits: ModelLimits, num_frames: int | None, sampling_num_frames: int | None) -> int:
    """Return the frames of the video from `num_frames`, which counts frames, or else from `sampling_num_frames`.

    The latter means latent frames if the model has such a count (13 latent frames are 49 frames), as in released
    configurations, and frames otherwise. Only the former may exceed the trained length. Raises
    ConfigError for a count that the model cannot make.
    """
    if num_frames is not None:
        return _one_of(limits.frame_counts, num_frames, "--num-frames")
    if sampling_num_frames is None:
        return limits.default_frames
    trained = [frames for frames in limits.frame_counts if frames <= limits.trained_frames]
    by_latents = {limits.sampled_latents(frames): frames for frames in trained}
    if sampling_num_frames in by_latents:
        return by_latents[sampling_num_frames]
    return _one_of(trained, sampling_num_frames, "args.sampling_num_frames")


def _one_of(counts: Sequence[int], frames: int, where: str) -> int:
    if frames in counts:
        return frames
    nearest = min(counts, key=lambda count: (abs(count - frames), count))
    step = counts[1] - 1 if len(counts) > 1 else 0
    rule = f"{step} k + 1 up to {counts[-1]}" if step else "1"
    raise ConfigError(f"{where}: this model cannot make {frames} frames, only {rule}; the nearest is {nearest}")


def choose_size(limits: ModelLimits, size: Sequence[int] | None) -> tuple[int, int]:
    """Return the (height, width) of the video. Raises ConfigError for a size that the model cannot make."""
    if size is None:
        return limits.default_size
    height, width = size
    multiple, most = limits.side_multiple, limits.largest
    nearest = tuple(max(round(side / multiple), 1) * multiple for side in size)
    if most is not None:
        nearest = min(nearest[0], most[0]), min(nearest[1], most[1])
    if (height, width) != nearest:
        bound = "" if most is None else f" up to {most[0]} x {most[1]}"
        raise ConfigError(f"args.sampling_image_size: this model cannot make {height} x {width} (height x width), only "
                          f"multiples of {multiple}{bound}; the nearest is [{nearest[0]}, {nearest[1]}]")
    return height, width


def warn_sizes(limits: ModelLimits, plans: Sequence[VideoPlan]) -> None:
    """Log a warning, once for all videos, if positions that cannot be computed for other sizes are used for some."""
    others = sum((plan.height, plan.width) != limits.default_size for plan in plans)
    if limits.fixed_table and others:
        logger.warning("this model's positions were made for %d x %d; %d video(s) of another size will look wrong",
                       *limits.default_size, others)


def extend_positions(model, frames: int) -> None:
    """Extend the network's `num_frames` to the video's length, if longer; computed positions are valid there too."""
    network = model["network_config"]["params"]
    if frames > network["num_frames"]:
        network["num_frames"] = frames
