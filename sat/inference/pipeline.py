"""The sampling pipeline: an engine with its weights, text embeddings of prompts, latents of a batch of videos."""
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from common import console
from configuration.settings import Arguments, SamplingSettings
from diffusion_video import DiffusionEngine
from engine.text_length import report_prompts
from inference.continuing import ONLY, Segment, kept_latents, start_of
from inference.jobs import Job
from inference.starting_clips import find_start, starts_from_clips
from memory.offload import offload_engine
from memory.quantization import quantize_engine
from parallel import groups
from sgm.conditioning import Conditioning
from sgm.sampling import FromLevel, Start, StepInfo
from weights.lora import load_lora
from weights.network import build_network

Texts = tuple[str, str | None]  # prompt and negative prompt
Conditions = Mapping[Texts, Conditioning]  # of one row each
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
def encode_prompts(engine: DiffusionEngine, jobs: Iterable[Job], negative_prompt: str | None,
                   known: MutableMapping[Texts, Conditioning] | None = None, show: bool = True) -> Conditions:
    """Return the conditioning of every pair of prompt and negative prompt, each encoded once.

    `known` has those of earlier calls, and is given the new ones. Without a negative prompt, the unconditional text
    embedding is zeros, which is what training drops to. They stay in CPU memory until their batch is sampled, and equal
    unconditional halves are kept once.
    """
    known = {} if known is None else known
    texts = {(job.prompt.index, text_pair(job, negative_prompt)): None for job in jobs}
    new = {pair: None for _, pair in texts if pair not in known}
    if groups.leads_copy():
        _report(engine, [(index, pair) for index, pair in texts if pair in new])
    before = next(iter(known.values()), None)
    for text, negative in console.progress(new, "prompts", disable=not show or len(new) < 2):
        made = engine.conditioner.conditioning({"txt": [text]}, None if negative is None else {"txt": [negative]})
        known[text, negative] = before = made.to("cpu").sharing(before)
    return {pair: known[pair] for _, pair in texts}


def text_pair(job: Job, negative_prompt: str | None) -> Texts:
    """Return a job's prompt and negative prompt: its own if it has one, or else the run's."""
    return job.prompt.text, negative_prompt if job.prompt.negative is None else job.prompt.negative


def _report(engine: DiffusionEngine, texts: Sequence[tuple[int, Texts]]) -> None:
    """Log what the text encoder loses of prompts, by index, and of each negative prompt once."""
    negative = dict.fromkeys(text for _, (_, text) in texts if text is not None)
    report_prompts(engine.conditioner, [*((f"prompt {index}", text) for index, (text, _) in texts),
                                        *(("the negative prompt", text) for text in negative)])


@dataclass
class Trace:
    """The course of a sampling run for its record: guidance scale, noise level and forward passes so far, by step."""

    guidance_scale: list[float] = field(default_factory=list)
    noise: list[dict] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    passes_skipped: Sequence[float] = ()  # share of its network evaluations that a step cache saved each row

    def __add__(self, later: "Trace") -> "Trace":
        """Return the course of this run followed by a later one; shares of skipped passes are averaged over both."""
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


class Course(NamedTuple):
    """The result of a run: latents (B, T, C, h, w) without padding, its course, the noise that clips were inverted to.
    """

    latents: Tensor
    trace: Trace
    inverted: Tensor | None


def sample_latents(engine: DiffusionEngine, batch: Sequence[Job], conditions: Conditions, args: Arguments,
                   watch: Watch | None = None, segment: Segment = ONLY, show: bool = True) -> Course:
    """Sample the latents of a batch. `segment` is the stretch of the videos that is sampled.

    `watch` is called after every step, with padding latents in front; what it raises ends the run. `show`: with a
    progress bar.
    """
    plan, seed = batch[0].plan, args.run.seed
    for job in batch:
        job.check_unchanged()
    own = [conditions[text_pair(job, args.sampling.negative_prompt)] for job in batch]
    conditioning = _with_clips(engine, batch, Conditioning.stacked(own).to(engine.device), seed, segment)
    start = _start(engine, batch, conditioning, args.sampling, segment, show)
    trace = Trace()
    with console.progress(desc=", ".join(str(job.prompt.index) for job in batch), unit="step", disable=not show) as bar:

        def after_step(step: StepInfo) -> None:
            if bar.n == 0:
                bar.total = step.num_steps - step.index  # fewer than all if the video starts from a clip
            bar.update()
            trace.add(step)
            if watch is not None:
                watch(step)

        latents = engine.sample(conditioning.unguided() if args.sampling.invert else conditioning,
                                shape=plan.latent_shape, callback=after_step,
                                noise=_given_noise(batch, args.sampling, segment),
                                generator=[job.generator(seed, segment.named("noise")) for job in batch], start=start)
    return Course(latents[:, plan.pad_latents:], trace, start.latents if isinstance(start, FromLevel) else None)


def _with_clips(engine: DiffusionEngine, batch: Sequence[Job], conditioning: Conditioning, seed: int, segment: Segment
                ) -> Conditioning:
    """Return the conditioning of a batch, with the latents of its images or control clips."""
    if engine.config.noised_image_input:
        return conditioning.shared(concat=_encoded_images(engine, batch, seed, segment))
    if engine.config.control_input:
        return conditioning.shared(concat=torch.cat([_encoded_control(engine, job) for job in batch]))
    return conditioning


def _encoded_control(engine: DiffusionEngine, job: Job) -> Tensor:
    """Return the latents (1, T, C, h, w) of a job's control clip; zeros, as in training, if it has none."""
    if job.prompt.control is None:
        return torch.zeros(1, *job.plan.latent_shape, device=engine.device)
    return engine.encode_clip(job.control()[None].to(engine.device))


def _start(engine: DiffusionEngine, batch: Sequence[Job], conditioning: Conditioning, settings: SamplingSettings,
           segment: Segment, show: bool) -> Start | None:
    if segment.kept is None:
        return find_start(engine, batch, conditioning, settings, show)
    tails = segment.kept.to(engine.device)
    return start_of(kept_latents(engine.encode_first_stage, tails, batch[0].plan.pad_latents), settings)


def _given_noise(batch: Sequence[Job], settings: SamplingSettings, segment: Segment) -> Tensor | None:
    """Return the unit noise that the videos of a batch start from, None if it is to be drawn."""
    given = [job.latents for job in batch if job.latents is not None]
    return torch.stack(given) if given and segment.number == 0 and not starts_from_clips(settings) else None


def _encoded_images(engine: DiffusionEngine, batch: Sequence[Job], seed: int, segment: Segment) -> Tensor:
    """Return the image latents (B, T, C, h, w) of a segment's first pictures, and of the videos' last ones at the end.

    The first picture of a segment that continues is the first frame that it keeps.
    """
    found = []
    for row, job in enumerate(batch):
        if segment.kept is not None:
            image = segment.kept[row, :, 0]
        else:
            assert job.image is not None
            image = job.image()
        last = job.last()[None].to(engine.device) if job.last is not None and segment.is_last else None
        generator = job.generator(seed, segment.named("image"))
        found.append(engine.encode_image(image[None].to(engine.device), job.plan.latent_frames, generator, last))
    return torch.cat(found)
