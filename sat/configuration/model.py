"""The `model` section of a configuration as a typed object."""
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import get_args

from common.errors import ConfigError
from common.suggestions import nearest
from common.unread import Unread
from configuration.yaml_files import plain, require

NO_SAMPLER = "model.sampler_config is missing; give the sampler's target and params"
REGIONAL = "regional"  # of compile_model: the repeated layer alone is compiled
FASTEST = "fastest"  # of attention_kernel: measured on the device
KERNELS = ("flash", "cudnn", "efficient", "math", "flash3", "flash4")  # see network.attention_kernels

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

    network_config: Mapping
    denoiser_config: Mapping
    conditioner_config: Mapping
    first_stage_config: Mapping
    sampler_config: Mapping | None = None
    loss_fn_config: Mapping | None = None
    network_wrapper: str | None = None  # dotted path of the network's wrapper class; None: OpenAIWrapper
    scale_factor: float = 1.0
    # Factor on the VAE's latent of the conditioning image; None: as released, 1 with time patches, else scale_factor.
    image_latent_scale: float | None = None
    input_key: str = "mp4"
    latent_input: bool = False  # batches may hold unscaled latents (B, t, C, H, W) instead of videos
    noised_image_input: bool = False  # image-to-video
    noised_image_all_concat: bool = False  # give the image latent to every latent frame, not only the first
    noised_image_dropout: float = 0.0  # share of training clips whose image latent is zeroed
    not_trainable_prefixes: Sequence[str] = ("first_stage_model", "conditioner")  # "all": everything but LoRA
    en_and_decode_n_samples_a_time: int | None = None
    disable_first_stage_autocast: bool = True
    compile_model: bool | str = False  # true: the whole transformer; "regional": layer by layer, which compiles faster
    compile_first_stage: bool = False
    attention_kernel: str | None = None  # in sampling: a name in attention_kernels.KERNELS, or "fastest", measured
    guidance_one_by_one: bool = False  # one forward pass per branch instead of one batch: less memory
    step_cache_config: Mapping | None = None  # reuse of layer outputs of earlier steps: step_cache
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
        for field in fields(cls):
            _check_kind(field, given.get(field.name, field.default))
        compiled = given.get("compile_model", False)
        if not isinstance(compiled, bool) and compiled != REGIONAL:
            raise ConfigError(f"model.compile_model is {compiled!r}; it must be true, false or {REGIONAL}")
        kernel, choices = given.get("attention_kernel"), (FASTEST, *KERNELS)
        if kernel is not None and kernel not in choices:
            raise ConfigError(f"model.attention_kernel is {kernel!r}; it must be one of {', '.join(choices)}"
                              f"{nearest(kernel, choices)}")
        if given.get("lr_scale") is not None:
            raise ConfigError("model.lr_scale: super-resolution from a smaller video is not supported; leave it out")
        return cls(**given)


    @property
    def sampler(self) -> Mapping:
        """The sampler's `{target, params}`. Raises ConfigError if there is none."""
        if self.sampler_config is None:
            raise ConfigError(NO_SAMPLER)
        return self.sampler_config


def _check_kind(field: Field, value) -> None:
    declared = set(get_args(field.type) or (field.type,))
    if str in declared:
        return
    for kind, accepted, words in ((bool, (bool,), "true or false"), (float, (int, float), "a number"),
                                  (int, (int,), "a whole number")):
        if kind in declared and value is not None and type(value) not in accepted:
            raise ConfigError(f"model.{field.name} is {value!r}; it must be {words}")
