"""The shape of the latents that a run samples, from its conditioning and the model, and its check."""
from collections.abc import Mapping, Sequence
from typing import Any

from common.compression import Compression
from common.errors import ConfigError
from common.patches import parse_patch_size
from common.typed import shown
from configuration.model import ModelConfig
from sgm.conditioning import Conditioning

AXES = "(latent frames, channels, height, width)"
# The grid in the configuration of a model with time patches only bounds the size; it was trained at this one.
SIZE_WITH_TIME_PATCHES = (768, 1360)

Shape = tuple[int, int, int, int]


def usual_shape(config: ModelConfig) -> Shape:
    """Return the latent shape (T, C, H, W) that a model was trained at, with the padding of its patches."""
    network = config.network_config["params"]
    patch, compression = parse_patch_size(network["patch_size"]), Compression.of_first_stage(config.first_stage_config)
    frames = compression.latent_frames(network["num_frames"])
    height, width = network["latent_height"], network["latent_width"]
    if patch[0] > 1:
        most = compression.latent_size(*SIZE_WITH_TIME_PATCHES)
        height, width = min(height, most[0]), min(width, most[1])
    return frames + -frames % patch[0], network["out_channels"], height, width


def batch_of(conditioning: Conditioning, batch_size: int | None) -> int:
    """Return the number of videos of a conditioning. Raises ConfigError if `batch_size` is another one."""
    if not conditioning.cond:
        raise ConfigError("the conditioning is empty; give the network's inputs, such as {'crossattn': tensor}")
    if batch_size not in (None, conditioning.rows):
        raise ConfigError(f"batch_size is {shown(batch_size)}, but the conditioning is of {conditioning.rows} "
                          "video(s); leave batch_size out")
    return conditioning.rows


def shape_of(config: ModelConfig, conditioning: Conditioning, given: Sequence[int] | None = None) -> Shape:
    """Return the latent shape (T, C, H, W) of a run: the given one, that of the image latent, or the usual one.

    Raises ConfigError for one that the model cannot sample, or that does not fit the image latent.
    """
    concat = conditioning.cond.get("concat")
    if given is None and concat is None:
        return usual_shape(config)
    if given is None:
        assert concat is not None
        return concat.shape[1], config.network_config["params"]["out_channels"], concat.shape[3], concat.shape[4]
    shape = _checked(given, config.network_config["params"])
    if concat is not None and (concat.shape[1], *concat.shape[3:]) != (shape[0], *shape[2:]):
        raise ConfigError(f"shape is {list(shape)}, but the conditioning's concat is {list(concat.shape[1:])}; both "
                          f"are {AXES} and may differ in channels only")
    return shape


def _checked(given: Any, network: Mapping[str, Any]) -> Shape:
    shape = tuple(given) if isinstance(given, Sequence) else ()
    if len(shape) != 4 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ConfigError(f"shape is {shown(given)}; it must be {AXES}, four whole numbers above 0")
    channels, patch = network["out_channels"], parse_patch_size(network["patch_size"])
    if shape[1] != channels:
        swapped = f"; is it {[shape[1], shape[0], *shape[2:]]}?" if shape[0] == channels else ""
        raise ConfigError(f"shape is {list(shape)}, but this model's latents have {channels} channels; the axes are "
                          f"{AXES}{swapped}")
    if any(side % size for side, size in zip((shape[0], *shape[2:]), patch, strict=True)):
        raise ConfigError(f"shape is {list(shape)}; frames, height and width must be multiples of the patch "
                          f"{list(patch)}")
    return shape[0], shape[1], shape[2], shape[3]
