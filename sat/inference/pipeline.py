"""The sampling pipeline: an engine with its weights, text embeddings of prompts, latents of a batch of videos."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common import console
from configuration.settings import Arguments
from diffusion_video import DiffusionEngine
from engine.text_length import report_prompts
from inference.continuing import ONLY, Segment, kept_latents
from inference.jobs import Job
from inference.starting_clips import find_start
from media.records import NOISE, save_latents
from memory.offload import offload_engine
from memory.quantization import quantize_engine
from parallel import groups
from sgm.conditioning import Conditioning
from sgm.sampling import Continuing, FromLevel, Start, StepInfo
from weights.lora import load_lora
from weights.network import build_network

Conditions = Mapping[int, Conditioning]  # of one row each, by the prompt's index
Watch = Callable[[StepInfo], None]


def load_engine(args: Arguments, device: torch.device | None = None) -> DiffusionEngine:
    """Return the engine with its weights on `device` (the run's if None), or offloaded as the settings ask."""
    device = args.run.device if device is None else device
    at_first = torch.device("cpu") if args.memory.offload is not None else device
    network = build_network(args.model_config.network_config, args.run.weights, args.run.dtype, at_first)
    engine = DiffusionEngine(args.of_engine(at_first), network).eval()
    load_lora(engine.network, args.run)
    engine.configure_memory(args.autoencoder)
    quantize_engine(engine, args.memory)
    if args.memory.offload is not None:
        offload_engine(engine, args.memory.offload, device)
    engine.divide_among_processes()
    return engine


@torch.no_grad()
def encode_prompts(engine: DiffusionEngine, jobs: Iterable[Job], negative_prompt: str | None) -> Conditions:
    """Return the conditioning of every prompt, encoded once.

    Without a negative prompt the unconditional text embedding is zeros, which is what training drops to.
    """
    prompts = {job.prompt.index: job.prompt for job in jobs}
    named = [(f"prompt {index}", prompt.text) for index, prompt in prompts.items()]
    if negative_prompt is not None:
        named.append(("the negative prompt", negative_prompt))
    if groups.leads_copy():
        report_prompts(engine.conditioner, named)
    negative = None if negative_prompt is None else {"txt": [negative_prompt]}
    shown = console.progress(prompts.items(), "prompts", disable=len(prompts) < 2)
    return {index: engine.conditioner.conditioning({"txt": [prompt.text]}, negative) for index, prompt in shown}


@dataclass
class Trace:
    """The course of a sampling run for its record: guidance scale, noise level and forward passes so far, by step."""

    guidance_scale: list[float] = field(default_factory=list)
    noise: list[dict] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    passes_skipped: Sequence[float] = ()  # share of its network evaluations that a step cache saved each row

    def __add__(self, later: "Trace") -> "Trace":
        """Return the course of this run and a later one, of which each saved its share."""
        before, after = self.passes[-1], later.passes[-1]
        skipped = [(one * before + other * after) / (before + after)
                   for one, other in zip(self.passes_skipped, later.passes_skipped, strict=True)]
        return Trace(self.guidance_scale + later.guidance_scale, self.noise + later.noise,
                     self.passes + [before + count for count in later.passes], skipped)

    def add(self, step: StepInfo) -> None:
        self.guidance_scale.append(float(step.scale))
        self.noise.append({"alpha": step.alpha, "sigma": step.sigma, "timestep": step.timestep})
        self.passes.append(step.passes)
        self.passes_skipped = step.skipped

    def of_row(self, row: int) -> dict:
        """Return the entries of a record for one row of the batch."""
        skipped = {"passes_skipped": self.passes_skipped[row]} if self.passes_skipped else {}
        return {"guidance_scale": self.guidance_scale, "noise": self.noise, "passes": self.passes} | skipped


def sample_latents(engine: DiffusionEngine, batch: Sequence[Job], conditions: Conditions, args: Arguments,
                   watch: Watch | None = None, segment: Segment = ONLY) -> tuple[Tensor, Trace]:
    """Return latents (B, T, C, h, w) of a batch without padding latents, and the course of sampling.

    `watch` is called after every step. `segment` is the stretch of the videos that is sampled.
    """
    plan, seed = batch[0].plan, args.run.seed
    conditioning = Conditioning.stacked([conditions[job.prompt.index] for job in batch])
    if engine.config.noised_image_input:
        conditioning = conditioning.shared(concat=_encoded_images(engine, batch, seed, segment))
    elif engine.config.control_input:
        controls = torch.cat([engine.encode_clip(job.control()[None].to(engine.device)) for job in batch])
        conditioning = conditioning.shared(concat=controls)
    start: Start | None
    if segment.kept is None:
        start = find_start(engine, batch, conditioning, args.sampling)
    else:
        start = Continuing(kept_latents(engine.encode_first_stage, segment.kept.to(engine.device), plan.pad_latents))
    if isinstance(start, FromLevel) and groups.leads_copy():  # found by inversion
        for job, noise in zip(batch, start.latents, strict=True):
            if job.written:
                save_latents(job.folder / NOISE, noise, plan.fps)
    trace = Trace()
    with console.progress(desc=", ".join(str(job.prompt.index) for job in batch), unit="step") as bar:

        def after_step(step: StepInfo) -> None:
            bar.total = step.num_steps
            bar.update()
            trace.add(step)
            if watch is not None:
                watch(step)

        latents = engine.sample(conditioning.unguided() if args.sampling.invert else conditioning,
                                shape=plan.latent_shape, callback=after_step,
                                generator=[job.generator(seed, segment.named("noise")) for job in batch], start=start)
    return latents[:, plan.pad_latents:], trace


def _encoded_images(engine: DiffusionEngine, batch: Sequence[Job], seed: int, segment: Segment) -> Tensor:
    """Return the image latents (B, T, C, h, w) of a segment's first pictures, and of the videos' last ones at the end.

    The first picture of a segment that continues is the first frame that it keeps.
    """
    found = []
    for row, job in enumerate(batch):
        image = job.image if segment.kept is None else segment.kept[row, :, 0]
        assert image is not None
        last = job.last[None].to(engine.device) if job.last is not None and segment.is_last else None
        generator = job.generator(seed, segment.named("image"))
        found.append(engine.encode_image(image[None].to(engine.device), job.plan.latent_frames, generator, last))
    return torch.cat(found)
