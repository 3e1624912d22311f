"""The settings of a run: every key of section `args`, in groups, each of which is handed to what needs it.

The command line and the files know the keys without their groups (`--num-frames`, `args.num_frames`).
"""
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace

import torch
from omegaconf import DictConfig, OmegaConf

from common.errors import CheckpointError, ConfigError

MODES = ("inference", "pretrain", "finetune")
WEIGHT_FORMATS = ("int8", "fp8", "fp8_dynamic")
OFFLOADS = ("model", "sequential")
INPUT_TYPES = ("txt", "cli", "latents")


def _key(default, kind: str, help: str, choices: Sequence[str] = ()):
    """Return a field for a key of section `args`.

    Kinds: int, float, bool, str, ints, input (a path to read), inputs (several), output (a path to write).
    """
    return field(default=default, metadata={"kind": kind, "help": help, "choices": tuple(choices)})


@dataclass
class RunSettings:
    """The weights, device, precision and seed of a run, whatever it is for."""

    mode: str = _key("inference", "str", "what the run is for", MODES)
    load: str | None = _key(None, "input", "weights: a folder with `latest`, a .pt or .safetensors file, or diffusers'")
    load_lora: str | None = _key(None, "input", "a LoRA of those weights, as trained here or in diffusers' layout")
    seed: int = _key(0, "int", "with prompt and sample index, the seed of each video's own noise")
    device: torch.device = _key(None, "str", "where to compute; None: the accelerator, else the CPU")
    fp16: bool = _key(False, "bool", "compute in float16")
    bf16: bool = _key(False, "bool", "compute in bfloat16")
    plan: bool = _key(False, "bool", "say what would be made, in what memory and time, and stop")
    model_parallel_size: int = _key(1, "int", "processes that share one transformer")

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

    input_type: str = _key("txt", "str", "txt: a prompt a line, cli: asked for, latents: saved ones", INPUT_TYPES)
    input_file: str | None = _key(None, "input", "the prompts (txt), or a file or folder of saved latents (latents)")
    image2video: bool | None = _key(None, "bool", "prompts name images, `prompt@@a.png`; None: as the model needs")
    strength: float | None = _key(None, "float", "start from clips, `prompt@@a.mp4`: the share of steps left")
    invert: bool = _key(False, "bool", "start from the noise that leads to each clip: written, and sampled unguided")
    negative_prompt: str | None = _key(None, "str", "what to steer away from; None steers away from no text at all")
    output_dir: str = _key("outputs", "output", "where the videos go")
    resume: bool = _key(False, "bool", "skip videos that an earlier run finished")
    save_denoised_every: int | None = _key(None, "int", "also write denoised.png: the clip as it is seen every n steps")
    only_save_latents: bool = _key(False, "bool", "stop before decoding and write latents.safetensors")
    batch_size: int = _key(1, "int", "videos sampled at a time")
    num_samples: int = _key(1, "int", "videos per prompt")
    num_frames: int | None = _key(None, "int", "frames of the video; takes precedence over sampling_num_frames")
    sampling_num_frames: int | None = _key(None, "int", "latent frames, as released files count, or video frames")
    sampling_image_size: list[int] | None = _key(None, "ints", "height and width in pixels")
    sampling_fps: int = _key(8, "int", "frames a second of the written video")
    latent_channels: int = _key(16, "int", "channels of the VAE's latent")
    guidance_parallel_size: int = _key(1, "int", "processes that divide the passes of guidance")
    sequence_parallel_size: int = _key(1, "int", "processes that divide the tokens of each pass")
    force_inference: bool = _key(True, "bool", "accepted for released files, which need it; inference is never refused")


@dataclass
class AutoencoderSettings:
    """The division of the autoencoder's work."""

    vae_tiling: bool = _key(False, "bool", "encode and decode in tiles with blended seams, which differs a little")
    vae_tile_size: list[int] | None = _key(None, "ints", "height and width of a tile in latents; None: 32 and 48")
    vae_tile_overlap: int = _key(4, "int", "latents that neighbouring tiles share at least")
    vae_encode_in_chunks: bool = _key(False, "bool", "encode eight frames at a time, which differs a little")


@dataclass
class MemorySettings:
    """The ways in which weights take less memory."""

    offload: str | None = _key(None, "str", "weights wait on the CPU, by part or also by layer", OFFLOADS)
    quantize_transformer: str | None = _key(None, "str", "its matrices in 8 bits (needs torchao)", WEIGHT_FORMATS)
    quantize_t5: str | None = _key(None, "str", "the text encoder's matrices in 8 bits (needs torchao)", WEIGHT_FORMATS)


@dataclass
class TrainingSettings:
    """The course of a training run, its data, and its files."""

    resume: bool = _key(False, "bool", "go on where the run in args.save stopped")
    experiment_name: str = _key("train", "str", "names the run's folder")
    checkpoint_activations: bool = _key(False, "bool", "recompute activations in the backward pass to save memory")
    no_load_rng: bool = _key(False, "bool", "draw noise and timesteps anew when resuming")
    train_iters: int | None = _key(None, "int", "optimizer steps")
    warmup_iters: int = _key(0, "int", "steps over which the learning rate rises")
    lr_decay: str = _key("cosine", "str", "course of the learning rate after the warm-up", ("cosine", "constant"))
    final_lr_share: float = _key(0.01, "float", "last learning rate of a cosine, as a share of the highest")
    ema_decay: float = _key(0.999, "float", "of the average of the weights that checkpoints hold; 0 for none")
    latent_cache: str | None = _key(None, "output", "folder of latents and text embeddings; made if missing")
    first_frame_variants: int = _key(4, "int", "cached draws of the noise on each clip's first frame (image-to-video)")
    grow_input: bool = _key(False, "bool", "args.load has fewer input channels; the new ones start at zero")
    sample_interval: int | None = _key(None, "int", "steps between samples")
    sample_count: int = _key(4, "int", "samples each time")
    keep_checkpoints: int = _key(3, "int", "the last so many checkpoints stay; 0: all")
    eval_iters: int = _key(1, "int", "batches per evaluation")
    eval_interval: int | None = _key(None, "int", "steps between evaluations")
    eval_batch_size: int | None = _key(None, "int", "clips per evaluation batch")
    save: str | None = _key(None, "output", "where checkpoints go")
    save_interval: int = _key(1000, "int", "steps between checkpoints")
    log_interval: int = _key(50, "int", "steps between log lines")
    train_data: list[str] | None = _key(None, "inputs", "folders of training clips")
    valid_data: list[str] | None = _key(None, "inputs", "folders of held-out clips")
    split: str = _key("1,0,0", "str", "accepted at 1,0,0, as released files have it; see valid_data")
    num_workers: int = _key(0, "int", "threads that read and decode clips ahead; 0: none")
    force_train: bool = _key(False, "bool", "start from a checkpoint that lacks some of the model's parameters")
    only_log_video_latents: bool = _key(False, "bool", "samples made while training stay latents")
    wandb: bool = _key(False, "bool", "log to Weights & Biases as well")
    wandb_project_name: str = _key("cogvideox", "str", "its project")


GROUPS: Mapping[str, type] = {"run": RunSettings, "sampling": SamplingSettings, "autoencoder": AutoencoderSettings,
                              "memory": MemorySettings, "training": TrainingSettings}
KEYS: dict[str, Field] = {f.name: f for group in reversed(list(GROUPS.values())) for f in fields(group)}


@dataclass
class Arguments:
    """All settings of a run in their groups, and the merged configuration files."""

    run: RunSettings = field(default_factory=RunSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    config: DictConfig = field(default_factory=lambda: OmegaConf.create({}))

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
    """The named device, else the accelerator that torch finds, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    there = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    if str(name).split(":")[0] not in there:
        raise ConfigError(f"args.device is {name!r}; on this machine it can be {' or '.join(there)}, or left out")
    return torch.device(name)


def resolve_dtype(fp16: bool, bf16: bool) -> torch.dtype:
    """The dtype of weights and activations."""
    if fp16 and bf16:
        raise ConfigError("args.fp16 and args.bf16 are both true; set one of them to false")
    return torch.float16 if fp16 else torch.bfloat16 if bf16 else torch.float32
