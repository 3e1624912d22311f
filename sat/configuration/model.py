"""The `model` section of a configuration as a typed object."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from common.errors import ConfigError
from common.kinds import AboveZero, Part, Positive, Share, Sides, Text
from common.suggestions import nearest
from common.typed import typed
from common.unread import Unread
from configuration.yaml_files import plain, require

NO_SAMPLER = "model.sampler_config is missing; give the sampler's target and params"
REGIONAL = "regional"  # of compile_model: the repeated layer alone is compiled
MAX = "max"  # of compile_model: the whole transformer with tuned kernels, replayed as graphs of the device
FASTEST = "fastest"  # of attention_kernel: measured on the device
Kernel = Literal["fastest", "flash", "cudnn", "efficient", "math", "flash3", "flash4", "sage2"]
KERNELS = tuple(name for name in get_args(Kernel) if name != FASTEST)  # see network.attention_kernels

UNREAD = {
    "log_keys": Unread("samples made while training are written with their captions alone", ((), [], ["txt"])),
    "lr_scale": Unread("super-resolution from a smaller video is not supported", (None,)),  # other values are refused
    "lora_train": Unread("a LoRA is trained where modules of network_config have a lora_config", (False,)),
    "use_pd": Unread("progressive distillation is not part of training", (False,)),
    "augmentation_dropout": Unread("clips are not augmented", (0.0,)),
}


@dataclass(frozen=True)
class ModelConfig:
    """The keys of a configuration's `model` section. Every `*_config` is a mapping of `target` and `params`."""

    network_config: Part
    denoiser_config: Part
    conditioner_config: Part
    first_stage_config: Part
    sampler_config: Part | None = None
    loss_fn_config: Part | None = None
    network_wrapper: Text | None = None  # dotted path of the network's wrapper class; None: OpenAIWrapper
    scale_factor: AboveZero = 1.0
    # Factor on the VAE's latent of the conditioning image; None: as released, 1 with time patches, else scale_factor.
    image_latent_scale: AboveZero | None = None
    input_key: Text = "mp4"
    latent_input: bool = False  # batches may hold unscaled latents (B, t, C, H, W) instead of videos
    noised_image_input: bool = False  # image-to-video
    noised_image_all_concat: bool = False  # give the image latent to every latent frame, not only the first
    noised_image_dropout: Share = 0.0  # share of training clips whose image latent is zeroed
    control_input: bool = False  # the latents of a control clip are joined on the channels; not with an image
    control_dropout: Share = 0.0  # share of training clips whose control latents are zeroed; then videos may lack one
    not_trainable_prefixes: Sequence[str] = ("first_stage_model", "conditioner")  # "all": everything but LoRA
    en_and_decode_n_samples_a_time: Positive | None = None
    disable_first_stage_autocast: bool = True
    # true: the whole transformer; "regional": layer by layer, which compiles faster; "max": network.compilation
    compile_model: bool | Literal["regional", "max"] = False
    compile_dynamic: bool = False  # compile once for videos of all sizes
    compile_first_stage: bool = False
    attention_kernel: Kernel | None = None  # in sampling: a name in attention_kernels.KERNELS, or "fastest", measured
    guidance_one_by_one: bool = False  # one forward pass per branch instead of one batch: less memory
    # Latent frames of a window, and those that neighbours share, for videos longer than trained: sgm.windows.
    time_windows: Sides | None = None
    windows_below: AboveZero | None = None  # sigma / alpha; noisier videos are seen as a whole, with RIFLEx
    step_cache_config: Part | None = None  # reuse of layer outputs of earlier steps: step_cache
    # No effect, see UNREAD.
    log_keys: Sequence[str] = ()
    lr_scale: None = None
    lora_train: bool = False
    use_pd: bool = False
    augmentation_dropout: float = 0.0

    @classmethod
    def read(cls, config) -> "ModelConfig":
        """Read a `model` section. Raises ConfigError for a key that is unknown, missing, unsupported or malformed."""
        given = dict(plain(config))
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(f"model.{key}: unknown key{nearest(key, known)}")
        for part in ("network_config", "denoiser_config", "conditioner_config", "first_stage_config"):
            require(given.get(part), f"model.{part}", "target")
        if given.get("lr_scale") is not None:
            raise ConfigError("model.lr_scale: super-resolution from a smaller video is not supported; leave it out")
        return cls(**typed(cls, given, "model"))

    @property
    def sampler(self) -> Mapping:
        """The sampler's `{target, params}`. Raises ConfigError if there is none."""
        if self.sampler_config is None:
            raise ConfigError(NO_SAMPLER)
        return self.sampler_config
