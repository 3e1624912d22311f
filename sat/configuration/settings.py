"""The settings of a run: every key of section `args`, in groups, each of which is handed to what needs it.

The command line and the files know the keys without their groups (`--num-frames`, `args.num_frames`).
"""
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, MinLen
from omegaconf import DictConfig, OmegaConf

from common.errors import CheckpointError, ConfigError
from common.kinds import BelowOne, Count, Positive, Seed, Share, Sides, Size, SizeOrZero, Steps, Text

MODES = ("inference", "pretrain", "finetune")
WEIGHT_FORMATS = ("int8", "fp8", "fp8_dynamic")
OFFLOADS = ("model", "sequential")
SAVING, DECODING = "saving", "decoding"  # see inference.overlap
Paths = Annotated[list[str], MinLen(1)]
Rounds = Annotated[int, Gt(0), Le(100)]
FrameRate = Annotated[int, Gt(0), Le(1000)]
Workers = Annotated[int, Ge(0), Le(1000)]
RIFLEX, WINDOWS = "riflex", "windows"  # see inference.lengths
INPUT_TYPES = ("txt", "cli", "latents")


def _key(default, kind: str, help: str, choices: Sequence[str] = ()):
    """Return a field for a key of section `args`.

    Kinds: int, float, bool, str, ints, floats, input (a path to read), inputs (several), output (a path to write).
    """
    return field(default=default, metadata={"kind": kind, "help": help, "choices": tuple(choices)})


class ChosenLora(NamedTuple):
    """A LoRA of a run: file or folder, the factor of its strength, and alpha in place of the file's (None: the file's).
    """

    file: str
    scale: float
    alpha: float | None


@dataclass
class RunSettings:
    """The weights, device, precision and seed of a run, whatever it is for."""

    mode: str = _key("inference", "str", "purpose of the run", MODES)
    load: str | None = _key(None, "input", "weights: folder with `latest`, .pt, .safetensors or diffusers folder")
    load_lora: list[str] | None = _key(None, "inputs", "LoRAs for those weights: files or folders in any layout")
    lora_scale: list[float] | None = _key(None, "floats", "factor of each LoRA's strength: 1 as trained, 0 none")
    lora_alpha: list[float] | None = _key(None, "floats", "alpha of each LoRA, in place of the one that its file has")
    seed: Seed = _key(0, "int", "each video's noise depends on this seed, its prompt and its sample index")
    device: torch.device = _key(None, "str", "device to compute on; None: the accelerator, else the CPU")
    fp16: bool = _key(False, "bool", "compute in float16")
    bf16: bool = _key(False, "bool", "compute in bfloat16")
    plan: bool = _key(False, "bool", "log the videos, memory and time of the run, then stop")
    model_parallel_size: Steps = _key(1, "int", "processes that share the weights of one transformer")

    @property
    def loras(self) -> list[ChosenLora]:
        """The LoRAs, each with its scale and alpha. Raises ConfigError if there are not as many of each."""
        files = self.load_lora or []
        numbers = {"lora_scale": self.lora_scale, "lora_alpha": self.lora_alpha}
        for key, given in numbers.items():
            if given is not None and len(given) != len(files):
                raise ConfigError(f"args.{key} has {len(given)} number(s), args.load_lora {len(files)} LoRA(s); give "
                                  "one number for each, or leave it out")
            for number in given or ():
                if not math.isfinite(number) or key == "lora_alpha" and number == 0:
                    raise ConfigError(f"args.{key} is {number}; it must be a finite number"
                                      f"{', and not 0' if key == 'lora_alpha' else ''}")
        return [ChosenLora(file, self.lora_scale[i] if self.lora_scale else 1.0,
                           self.lora_alpha[i] if self.lora_alpha else None) for i, file in enumerate(files)]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return resolve_dtype(self.fp16, self.bf16)

    @property
    def weights(self) -> str:
        """The path of the transformer's weights. Raises CheckpointError if there is none."""
        if self.load is None:
            raise CheckpointError("args.load is missing; set it to the folder or file of the transformer's weights")
        return self.load


@dataclass
class SamplingSettings:
    """The videos to make and the way they are sampled. None leaves the choice to the model, or the feature off."""

    input_type: str = _key("txt", "str", "txt: one prompt per line; cli: typed; latents: saved ones", INPUT_TYPES)
    input_file: str | None = _key(None, "input", "prompts (txt), or a file or folder of saved latents (latents)")
    image2video: bool | None = _key(None, "bool", "prompts name images, `prompt@@a.png`; None: if the model needs one")
    strength: float | None = _key(None, "float", "start from clips, `prompt@@a.mp4`, with this share of the steps left")
    invert: bool = _key(False, "bool", "invert each clip to noise, save the noise, and sample from it without guidance")
    continue_from: Steps | None = _key(None, "int", "keep this many last latent frames of each clip, and go on")
    segments: Steps | None = _key(None, "int", "segments of the video, each of which continues the one before")
    continue_rounds: Rounds | None = _key(None, "int", "times that each step of a continuing segment is made; None: 2")
    negative_prompt: str | None = _key(None, "str", "guidance steers away from this; None: a zero text embedding")
    save_text_embeddings: str | None = _key(None, "output", "encode the prompts, write this file, and stop there")
    text_embeddings: str | None = _key(None, "input", "file of the prompts' text embeddings; no text encoder is loaded")
    output_dir: str = _key("outputs", "output", "folder for the videos")
    resume: bool = _key(False, "bool", "keep videos that are finished; in training, continue the run in args.save")
    save_denoised_every: Positive | None = _key(None, "int", "also write denoised.png, the estimate every n steps")
    overlap: str | None = _key(None, "str", "while the next videos are sampled, write the files, or decode, too",
                               (SAVING, DECODING))
    only_save_latents: bool = _key(False, "bool", "write latents.safetensors and do not decode")
    batch_size: Steps = _key(1, "int", "videos sampled together")
    num_samples: Steps = _key(1, "int", "videos per prompt")
    num_frames: Size | None = _key(None, "int", "frames of the video; overrides sampling_num_frames")
    long_video: str | None = _key(None, "str", "way to make a video longer than trained; None: the first that works",
                                  (RIFLEX, WINDOWS))
    sampling_num_frames: Size | None = _key(None, "int", "latent frames (as in released configurations) or frames")
    sampling_image_size: Sides | None = _key(None, "ints", "height and width in pixels")
    sampling_fps: FrameRate = _key(8, "int", "frames per second of the written video")
    latent_channels: Size = _key(16, "int", "channels of the VAE's latent")
    guidance_parallel_size: Steps = _key(1, "int", "processes that share the branches of guidance")
    sequence_parallel_size: Steps = _key(1, "int", "processes that share the tokens of each forward pass")
    force_inference: bool = _key(True, "bool", "no effect; accepted because released configurations set it")


@dataclass
class AutoencoderSettings:
    """The division of the autoencoder's work."""

    vae_tiling: bool = _key(False, "bool", "encode and decode in blended tiles; changes the result slightly")
    vae_tile_size: Sides | None = _key(None, "ints", "height and width of a tile in latent pixels; None: 32 and 48")
    vae_tile_overlap: SizeOrZero = _key(4, "int", "least overlap of neighbouring tiles, in latent pixels")
    vae_encode_in_chunks: bool = _key(False, "bool", "encode eight frames at a time; changes the result slightly")


@dataclass
class MemorySettings:
    """The ways in which weights take less memory."""

    offload: str | None = _key(None, "str", "keep weights on the CPU until needed, by part or by layer", OFFLOADS)
    quantize_transformer: str | None = _key(None, "str", "store its matrices in 8 bits (needs torchao)", WEIGHT_FORMATS)
    quantize_t5: str | None = _key(None, "str", "store the text encoder's matrices in 8 bits (torchao)", WEIGHT_FORMATS)


@dataclass
class TrainingSettings:
    """The course of a training run, its data, and its files."""

    resume: bool = _key(False, "bool", "continue the run in args.save where it stopped")
    experiment_name: Text = _key("train", "str", "name of the run folder")
    checkpoint_activations: bool = _key(False, "bool", "recompute activations in the backward pass to save memory")
    offload_activations: bool = _key(False, "bool", "keep the layers' inputs in CPU memory for that backward pass")
    no_load_rng: bool = _key(False, "bool", "draw noise and timesteps anew when resuming")
    train_iters: Positive | None = _key(None, "int", "optimizer steps")
    warmup_iters: Count = _key(0, "int", "steps over which the learning rate rises")
    lr_decay: str = _key("cosine", "str", "learning rate schedule after the warm-up", ("cosine", "constant"))
    final_lr_share: Share = _key(0.01, "float", "final learning rate of a cosine, as a share of the highest")
    ema_decay: BelowOne = _key(0.999, "float", "decay of the averaged weights that checkpoints hold; 0: no average")
    latent_cache: str | None = _key(None, "output", "folder of cached latents and text embeddings; filled if missing")
    first_frame_variants: Steps = _key(4, "int", "cached noise draws for each clip's first frame (image-to-video)")
    last_frame_rate: Share = _key(0.0, "float", "share of clips whose last frame is given, too (image-to-video)")
    grow_input: bool = _key(False, "bool", "accept an args.load with fewer input channels; the new ones start at zero")
    sample_interval: Positive | None = _key(None, "int", "steps between samplings")
    sample_count: Steps = _key(4, "int", "videos per sampling")
    keep_checkpoints: Count = _key(3, "int", "number of latest checkpoints to keep; 0: all")
    eval_iters: Positive = _key(1, "int", "batches per evaluation")
    eval_interval: Positive | None = _key(None, "int", "steps between evaluations")
    eval_batch_size: Steps | None = _key(None, "int", "clips per evaluation batch")
    save: str | None = _key(None, "output", "folder for checkpoints")
    save_interval: Positive = _key(1000, "int", "steps between checkpoints")
    log_interval: Positive = _key(50, "int", "steps between log lines")
    train_data: Paths | None = _key(None, "inputs", "folders of training clips")
    valid_data: Paths | None = _key(None, "inputs", "folders of held-out clips")
    split: str = _key("1,0,0", "str", "only the released value, 1,0,0, is accepted; see valid_data")
    num_workers: Workers = _key(0, "int", "threads that read and decode clips ahead; 0: none")
    force_train: bool = _key(False, "bool", "accept an args.load that lacks some of the model's parameters")
    only_log_video_latents: bool = _key(False, "bool", "write samples made during training as latents, not videos")
    wandb: bool = _key(False, "bool", "log to Weights & Biases as well")
    wandb_project_name: Text = _key("cogvideox", "str", "project in Weights & Biases")

    @property
    def folder(self) -> Path:
        """The run folder. Raises ConfigError if there is none."""
        if self.save is None:
            raise ConfigError("args.save is missing; give the folder for checkpoints")
        return Path(self.save)


GROUPS: Mapping[str, type] = {"run": RunSettings, "sampling": SamplingSettings, "autoencoder": AutoencoderSettings,
                              "memory": MemorySettings, "training": TrainingSettings}
KEYS: dict[str, Field] = {f.name: f for group in reversed(list(GROUPS.values())) for f in fields(group)}


@dataclass
class Arguments:
    """All settings of a run in their groups, and the merged configuration files.

    `composed` is that configuration before a run adapts it to its videos, weights and processes, as plain containers;
    `allow_targets` are the modules that the command line opened to it, `typed` the keys of `args` that it gave.
    """

    run: RunSettings = field(default_factory=RunSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    config: DictConfig = field(default_factory=lambda: OmegaConf.create({}))
    composed: Mapping[str, Any] = field(default_factory=dict)
    allow_targets: Sequence[str] = ()
    typed: Sequence[str] = ()

    @classmethod
    def grouped(cls, values: dict, config: DictConfig) -> "Arguments":
        """Return the arguments for values by key; a key that several groups have, such as `resume`, goes to each."""
        settings = {}
        for name, group in GROUPS.items():
            settings[name] = group(**{f.name: values[f.name] for f in fields(group) if f.name in values})
        return cls(**settings, config=config)

    @property
    def model_config(self) -> DictConfig:
        return self.config.model

    @property
    def data_config(self) -> DictConfig:
        return self.config.data

    @property
    def deepspeed_config(self) -> DictConfig:
        return self.config.deepspeed

    def changed(self, **values) -> "Arguments":
        """Return a copy in which these keys have other values."""
        settings = {}
        for name, group in GROUPS.items():
            own = {f.name: values[f.name] for f in fields(group) if f.name in values}
            settings[name] = replace(getattr(self, name), **own)
        return replace(self, **settings)

    def of_engine(self, device: torch.device | None = None) -> Namespace:
        """Return what `DiffusionEngine` is built from; `device` takes precedence over the run's."""
        return Namespace(model_config=self.model_config, fp16=self.run.fp16, bf16=self.run.bf16,
                         device=self.run.device if device is None else device)


def resolve_device(name: str | None = None) -> torch.device:
    """Return the named device; without a name, the accelerator that torch finds, else the CPU.

    Raises ConfigError for a device that this machine lacks.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    there = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    if str(name).split(":")[0] not in there:
        raise ConfigError(f"args.device is {name!r}; on this machine it must be {' or '.join(there)}, or left out")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"args.device is {name!r}, which is no device; a number may follow the colon") from error


def resolve_dtype(fp16: bool, bf16: bool) -> torch.dtype:
    """Return the dtype of weights and activations. Raises ConfigError if both `fp16` and `bf16` are true."""
    if fp16 and bf16:
        raise ConfigError("args.fp16 and args.bf16 are both true; set one of them to false")
    return torch.float16 if fp16 else torch.bfloat16 if bf16 else torch.float32
