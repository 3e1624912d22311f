"""Estimates of the memory that a training run will need, by part and by phase, before anything is loaded.

On each process, with N trained elements of b bytes in the run's dtype, of which K = N / processes are its own with ZeRO
and K = N without:

    weights      the transformer's, trained and frozen; with ZeRO 3 divided. VAE and text encoder too, unless a latent
                 cache takes their place; samples need the VAE even then
    gradients    b N, or with ZeRO 2 and 3 b K; with ZeRO 3 a buffer that stays between steps
    optimizer    its moments, and with ZeRO or 16 bits a float32 copy of K weights; in CPU memory if offloaded, with
                 gradients and a buffer of the weights. A run on a CPU has one memory for both
    average      4 N (ZeRO 3: 4 K)
    activations  measured on the meta device (meter.py), forward and backward, with all that is computed again, and on
                 a CPU with the copies that its products make
    phases       the forward and backward pass, with the bucket in which ZeRO reduces gradients and the weights that
                 ZeRO 3 gathers from other processes; the optimizer's step, with gradients in the dtype, flat, and in
                 float32; the update of the average; the encoders' work, in each step or before the run, when a cache
                 is filled; validation and sampling (between_steps.py), with the trained weights set aside; saving, for
                 which ZeRO 3 gathers the weights, and a CPU copies them

Python, its libraries and gaps between blocks of memory come on top.
"""
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from common.ranks import world_size
from configuration.model import ModelConfig
from configuration.settings import Arguments, RunSettings
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain
from diffusion_video import freeze
from dry_run.between_steps import BetweenSteps, clip_bytes, encoding_bytes, padded_size
from dry_run.memory import META, forward_pass, text_cost, weight_bytes
from dry_run.meter import measure_training
from engine.first_stage import LatentCodec, samples_need_autoencoder
from media.clips import ClipFormat
from vae_modules.autoencoder import VideoAutoencodingEngine
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

    @property
    def keeps_gradients(self) -> bool:
        """True if gradients have a buffer on the device that stays between steps."""
        return self.stage == 3 and not self.offloaded

    def in_bucket(self, elements: int, on_cpu: bool) -> int:
        """Return the elements of the bucket that take memory: on a CPU, memory that is not written takes none."""
        return min(self.bucket, elements) if on_cpu else self.bucket

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
    transformer, vae = _networks(args, model)
    network = _trained(transformer, model, form, division.clips, args.run)
    encoders, encoding = _encoders(args, model, vae, form, 1 if cached else division.clips)
    b = args.run.dtype.itemsize
    whole = b * (network.elements + network.frozen)
    optimizer = _optimizer(division, network, b)
    built = {} if cached else encoders
    if samples_need_autoencoder(args.training, model):
        built = {VAE: encoders[VAE], **built}
    parts = {TRANSFORMER: division.own(whole, 3), GRADIENTS: b * division.own(network.elements, 2),
             OPTIMIZER: 0 if division.offloaded else optimizer,
             AVERAGE: FLOAT * division.own(network.elements, 3), **built}
    on_cpu = args.run.device.type == "cpu"
    kept = sum(parts.values()) - (0 if division.keeps_gradients else parts[GRADIENTS])
    if division.stage == 3:  # its bucket stays between steps
        kept += b * division.in_bucket(network.elements, on_cpu)
    phases = _phases(division, network, parts, kept, b, on_cpu)
    if not cached:
        phases[ENCODING] = encoding + kept
        phases[BACKWARD] += clip_bytes(form, division.clips, model)
    aside = kept + b * division.own(network.elements, 3)  # the trained weights, while their averages take their place
    divided = division.stage == 3 and division.processes > 1
    gathered = min(whole, GATHERED * b) if divided else 0
    for name, size in BetweenSteps(args, model, form, transformer.eval(), vae).bytes(division.clips):
        phases[name] = aside + gathered + size
    phases[BACKWARD] += gathered
    if divided or on_cpu:
        phases[SAVING] = kept + (whole if divided else 0) + (_copied(division, network, b) if on_cpu else 0)
    host = optimizer + (FLOAT + b) * division.own(network.elements) if division.offloaded else 0
    if on_cpu:
        phases = {name: size + host for name, size in phases.items()}
    if cached:
        phases[FILLING] = encoding + sum(encoders.values())
    return TrainingEstimate(division, network, parts, phases, host)


def _copied(division: Division, network: Trained, b: int) -> int:
    """Return the bytes of what saving copies to a CPU, with gradients that are still there."""
    average = FLOAT * network.elements if division.stage == 3 else 0
    return b * network.saved + average + (0 if division.stage else b * network.elements)


def _optimizer(division: Division, network: Trained, b: int) -> int:
    copy = FLOAT if division.stage or b < FLOAT else 0
    found = (MOMENTS.get(division.optimizer, 2 * FLOAT) + copy) * division.own(network.elements)
    return int(found) - (FLOAT * network.matrices if division.optimizer == MUON else 0)


def _phases(division: Division, network: Trained, parts: Mapping[str, int], kept: int, b: int, on_cpu: bool
            ) -> dict[str, int]:
    """Return the bytes of the phases of a step on latents, beside the `kept` bytes that are there all the time."""
    gradients = 0 if division.keeps_gradients else parts[GRADIENTS]
    own, widened = division.own(network.elements), b < FLOAT
    if division.stage == 0:
        backward = max(network.together, gradients + (network.activations if division.passes > 1 else 0))
        step = gradients + (FLOAT * own if widened else 0)
    else:
        bucket = b * division.in_bucket(network.elements, on_cpu) if division.stage < 3 else 0
        before = gradients if division.passes > 1 and not division.offloaded else 0
        growing = network.together if on_cpu else max(network.together, network.activations + bucket)
        reduced = bucket + (0 if division.offloaded else gradients)
        if division.stage > 1:  # at stage 1 the gradients that wait are those that are reduced
            reduced += before
        backward = max(before + growing, reduced)
        flat = (b + FLOAT if division.stage == 3 else 2 * b + (FLOAT if widened else 0)) * own
        step = 0 if division.offloaded else flat
    return {BACKWARD: kept + backward, STEP: kept + step, AVERAGING: kept + (parts[AVERAGE] if widened else 0)}


def _networks(args: Arguments, model: ModelConfig) -> tuple[nn.Module, VideoAutoencodingEngine]:
    """Return the transformer, with frozen parameters as in the run, and the autoencoder, both on the meta device."""
    config = {**model.first_stage_config, "params": {**model.first_stage_config["params"], "ckpt_path": None}}
    with META:
        network = instantiate_from_config(model.network_config).to(args.run.dtype).train()
        codec = LatentCodec(config, model.scale_factor).to(args.run.dtype)
    codec.configure_memory(args.autoencoder)
    freeze(((f"model.diffusion_model.{name}", p) for name, p in network.named_parameters()),
           model.not_trainable_prefixes)
    return network, codec.first_stage_model


def _trained(network: nn.Module, model: ModelConfig, form: ClipFormat, clips: int, run: RunSettings) -> Trained:
    """Return the elements of the network and its activations, measured on as many clips."""
    forward = forward_pass(network, model.network_config["params"], clips, padded_size(form, model), run.dtype, clips)
    activations = measure_training(lambda: forward().float().square().mean(), network, run.device)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    matrices = sum(p.numel() for name, p in trained.items() if p.ndim == 2 and "transformer.layers." in name)
    elements = sum(p.numel() for p in trained.values())
    everything = weight_bytes(network) // run.dtype.itemsize
    saved = 0 if trains_only_lora(network) else everything
    return Trained(elements, everything - elements, saved, matrices, *activations)


def _encoders(args: Arguments, model: ModelConfig, vae: VideoAutoencodingEngine, form: ClipFormat, clips: int
              ) -> tuple[dict[str, int], int]:
    """Return the weights of VAE and text encoder in bytes, and the most that encoding takes beside them."""
    at_a_time = min(clips, model.en_and_decode_n_samples_a_time or clips)
    text = text_cost(model, args.run.dtype, False)
    encoding = encoding_bytes(vae, form, at_a_time, args.run) + clip_bytes(form, clips, model)
    return {VAE: weight_bytes(vae), TEXT: text.weights}, max(encoding, clips * text.activations)
