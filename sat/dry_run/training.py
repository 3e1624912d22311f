"""Estimates of the memory that a training run will need, by part and by phase, before anything is loaded.

On each process, with N trained elements of b bytes in the run's dtype, of which K = N / processes are its own with ZeRO
and K = N without:

    weights      the transformer's, trained and frozen; with ZeRO 3 divided. VAE and text encoder too, unless a latent
                 cache takes their place
    gradients    b N, or with ZeRO 2 and 3 b K
    optimizer    its moments, and with ZeRO or 16 bits a float32 copy of K weights; in CPU memory if offloaded
    average      4 N (ZeRO 3: 4 K)
    activations  measured on the meta device (meter.py), forward and backward, with all that is computed again
    phases       the forward and backward pass, with the bucket in which ZeRO reduces gradients and the weights that
                 ZeRO 3 gathers; the optimizer's step, with gradients in the dtype, flat, and in float32; the update of
                 the average; the encoders' work, in each step or before the run, when a cache is filled; saving, for
                 which ZeRO 3 gathers the weights, and a CPU copies them

Python, its libraries and gaps between blocks of memory come on top.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from common.compression import Compression
from common.ranks import world_size
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain
from diffusion_video import freeze
from dry_run.memory import META, text_cost, text_shape, weight_bytes
from dry_run.meter import measure, measure_training
from engine.first_stage import LatentCodec
from media.clips import ClipFormat
from weights.lora import trains_only_lora

TRANSFORMER, GRADIENTS, OPTIMIZER, AVERAGE, VAE, TEXT = (
    "transformer", "gradients", "optimizer", "average of the weights", "VAE", "text encoder")
BACKWARD, STEP, AVERAGING, ENCODING, FILLING, SAVING = (
    "forward and backward pass", "optimizer's step", "averaging", "encoding of clips and captions",
    "filling of the latent cache", "saving")
FLOAT = 4  # bytes
BUCKET, GATHERED = 500_000_000, 1_000_000_000  # elements: DeepSpeed's reduce_bucket_size, stage3_max_live_parameters
EIGHT_BIT, MUON = "AdamW8bit", "Muon"
MOMENTS = {EIGHT_BIT: 2 + 2 * FLOAT / 256}  # bytes an element, scales included; of other optimizers two floats


@dataclass(frozen=True)
class Division:
    """The way in which DeepSpeed divides a run: ZeRO stage, processes, clips of a forward pass, passes of a step."""

    stage: int
    processes: int
    clips: int
    passes: int
    optimizer: str
    offloaded: bool
    bucket: int

    @classmethod
    def of(cls, section: Mapping) -> "Division":
        """Return that of a checked section `deepspeed`."""
        zero, processes = section.get("zero_optimization") or {}, world_size()
        passes = section.get("gradient_accumulation_steps")
        total = section.get("train_batch_size") or 0
        clips = section.get("train_micro_batch_size_per_gpu") or total // (processes * (passes or 1))
        passes = passes or max(1, total // (processes * clips))
        offloaded = zero.get("cpu_offload") is True or (zero.get("offload_optimizer") or {}).get("device") == "cpu"
        bucket = int(zero.get("reduce_bucket_size", BUCKET)) * (2 if zero.get("overlap_comm") else 1)
        return cls(zero.get("stage", 0), processes, clips, passes, section["optimizer"].get("type", "AdamW"), offloaded,
                   bucket)

    def own(self, elements: int, from_stage: int = 1) -> int:
        """Return how many of the trained elements a process keeps of what is divided from a ZeRO stage on."""
        return -(-elements // self.processes) if self.stage >= from_stage else elements


@dataclass(frozen=True)
class Trained:
    """The elements of a network, trained and frozen, and the bytes of its activations in training.

    `saved` are the elements that are copied to save them; a LoRA's are not. `matrices` are the trained elements that
    Muon steps along; `together` are the activations with the gradients that grow beside them.
    """

    elements: int
    frozen: int
    saved: int
    matrices: int
    activations: int
    together: int


@dataclass(frozen=True)
class TrainingEstimate:
    """The bytes of each part on the device, of each phase at its peak, and of what is kept in CPU memory."""

    division: Division
    network: Trained
    parts: Mapping[str, int]
    phases: Mapping[str, int]
    host: int

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs the most memory, and its bytes."""
        return max(self.phases.items(), key=lambda phase: phase[1])


def estimate_training(args: Arguments, model: ModelConfig, form: ClipFormat) -> TrainingEstimate:
    """Estimate what a run with checked settings needs on clips of this form."""
    division, cached = Division.of(plain(args.deepspeed_config)), args.training.latent_cache is not None
    network = _trained(args, model, form, division.clips)
    encoders, encoding = _encoders(args, model, form, 1 if cached else division.clips)
    b, own = args.run.dtype.itemsize, division.own(network.elements)
    whole = b * (network.elements + network.frozen)
    optimizer = _optimizer(division, network, b)
    parts = {TRANSFORMER: division.own(whole, 3), GRADIENTS: b * division.own(network.elements, 2),
             OPTIMIZER: 0 if division.offloaded else optimizer,
             AVERAGE: FLOAT * division.own(network.elements, 3), **({} if cached else encoders)}
    phases = _phases(division, network, parts, b, on_cpu=args.run.device.type == "cpu")
    kept = sum(parts.values()) - parts[GRADIENTS]
    phases[FILLING if cached else ENCODING] = encoding + (sum(encoders.values()) if cached else kept)
    if not cached:
        phases[BACKWARD] += _clip_bytes(form, division.clips)
    if division.stage == 3:
        phases[BACKWARD] += min(whole, GATHERED * b)
        phases[SAVING] = kept + whole
    elif args.run.device.type == "cpu":  # where the weights to be saved are copied to
        phases[SAVING] = kept + b * network.saved + (0 if division.stage else parts[GRADIENTS])
    return TrainingEstimate(division, network, parts, phases, optimizer + FLOAT * own if division.offloaded else 0)


def _optimizer(division: Division, network: Trained, b: int) -> int:
    copy = FLOAT if division.stage or b < FLOAT else 0
    found = (MOMENTS.get(division.optimizer, 2 * FLOAT) + copy) * division.own(network.elements)
    return int(found) - (FLOAT * network.matrices if division.optimizer == MUON else 0)


def _phases(division: Division, network: Trained, parts: Mapping[str, int], b: int, on_cpu: bool) -> dict[str, int]:
    """Return the bytes of the phases of a step on latents, with all weights at hand."""
    kept, gradients = sum(parts.values()) - parts[GRADIENTS], parts[GRADIENTS]
    own, widened = division.own(network.elements), b < FLOAT
    if division.stage == 0:
        backward = max(network.together, gradients + (network.activations if division.passes > 1 else 0))
        step = gradients + (FLOAT * own if widened else 0)
    else:
        # On a CPU, memory of the bucket that is not written takes nothing.
        bucket = b * (min(division.bucket, network.elements) if on_cpu else division.bucket)
        before = gradients if division.passes > 1 and not division.offloaded else 0
        growing = network.together if on_cpu else max(network.together, network.activations + bucket)
        backward = max(before + growing, bucket + (0 if division.offloaded else gradients))
        step = 0 if division.offloaded else (2 * b + (FLOAT if widened else 0)) * own
    return {BACKWARD: kept + backward, STEP: kept + step, AVERAGING: kept + (parts[AVERAGE] if widened else 0)}


def _trained(args: Arguments, model: ModelConfig, form: ClipFormat, clips: int) -> Trained:
    """Return the elements of the network and its activations, measured on as many clips."""
    params, dtype = model.network_config["params"], args.run.dtype
    compression = Compression.of_first_stage(model.first_stage_config)
    with META:
        network = instantiate_from_config(model.network_config).to(dtype).train()
        freeze(((f"model.diffusion_model.{name}", p) for name, p in network.named_parameters()),
               model.not_trainable_prefixes)
        frames = compression.latent_frames(form.max_num_frames)
        frames += -frames % network.patch_size[0]
        x = torch.empty(clips, frames, params["in_channels"], *compression.latent_size(*form.video_size), dtype=dtype)
        text = torch.empty(clips, *text_shape(params), dtype=dtype)
        inputs = {} if params.get("ofs_embed_dim") is None else {"ofs": torch.empty(1)}
        timesteps = torch.empty(clips)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    activations = measure_training(lambda: network(x, timesteps, text, **inputs).float().square().mean(), network,
                                   args.run.device)
    matrices = sum(p.numel() for name, p in trained.items() if p.ndim == 2 and "transformer.layers." in name)
    elements = sum(p.numel() for p in trained.values())
    everything = weight_bytes(network) // dtype.itemsize
    saved = 0 if trains_only_lora(network) else everything
    return Trained(elements, everything - elements, saved, matrices, *activations)


def _encoders(args: Arguments, model: ModelConfig, form: ClipFormat, clips: int) -> tuple[dict[str, int], int]:
    """Return the weights of VAE and text encoder in bytes, and the most that encoding takes beside them."""
    config = {**model.first_stage_config, "params": {**model.first_stage_config["params"], "ckpt_path": None}}
    at_a_time = min(clips, model.en_and_decode_n_samples_a_time or clips)
    with META:
        codec = LatentCodec(config, model.scale_factor).to(args.run.dtype)
        codec.configure_memory(args.autoencoder)
        video = torch.empty(at_a_time, 3, form.max_num_frames, *form.video_size, dtype=args.run.dtype)
    vae, text = codec.first_stage_model, text_cost(model, args.run.dtype, False)
    encoded, _ = measure(lambda: vae.encode(video, unregularized=True), args.run.device)
    encoding = encoded + video.nbytes + _clip_bytes(form, clips)
    return {VAE: weight_bytes(vae), TEXT: text.weights}, max(encoding, clips * text.activations)


def _clip_bytes(form: ClipFormat, clips: int) -> int:
    """Return the bytes of clips as they are read, in float32."""
    height, width = form.video_size
    return FLOAT * clips * 3 * form.max_num_frames * height * width
