"""From prompts, or prompts and images, to video files, in five steps.

    python sample_video.py --base configs/tiny_t2v.yaml configs/inference.yaml --seed 1

With `--plan` nothing is loaded: it says what would be made, in what memory and time.
"""
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

import torch
from omegaconf import OmegaConf
from torch import Tensor

from arguments import get_args
from common import console, ranks
from common.errors import CheckpointError, ConfigError, DataError
from common.files import check_writable
from configuration.settings import Arguments, resolve_dtype
from configuration.targets import check_config
from diffusion_video import DiffusionEngine, build_codec
from dry_run.report import show_plan
from engine.checks import check_device, check_model
from engine.first_stage import tiling_of
from engine.process_checks import check_sequence_parallel, check_shared, settle_size
from inference.filmstrip import FILMSTRIP, Filmstrip
from inference.jobs import Job, in_batches, plan_jobs
from inference.prompts import ask_prompts, read_prompts
from inference.sizes import extend_positions, model_limits, plan_video
from inference.starting_clips import check_clips, find_start, starts_from_clips
from media.records import LATENTS, NOISE, RECORD, find_latents, load_latents, save_latents, versions, write_record
from media.videos import write_outputs
from memory.offload import TEXT, at_rest, offload_engine
from memory.quantization import check_quantization, quantize_engine
from parallel import groups, launch
from sgm.sampling import StepInfo
from weights.lora import configure_lora, load_lora
from weights.network import build_network, check_network

logger = logging.getLogger("sample_video")

STEPS = ("configuration", "model load", "prompt encoding", "diffusion sampling", "decode and save")


def sample_videos(argv: Sequence[str] | None = None) -> None:
    steps = console.Steps(*STEPS)
    with steps("configuration", announce=False), ranks.told_once():  # a mistake is answered by its one line alone
        args = get_args(argv, __doc__)
        settle_size(args)
        check_shared(args)
        check_sequence_parallel(args)
        if args.plan:
            return show_plan(args)
        requests = None if args.input_type == "latents" else plan_requests(args)
    if requests is None:
        with launched(args) as args.device:
            return decode_saved_latents(args)
    steps.announce("configuration", f": {summary(args)}")
    if requests == [[]]:
        return logger.info("every video of this run is finished already, in %s", args.output_dir)
    with launched(args) as args.device:
        made = make_videos(requests, args, steps)
    logger.info("%d video(s) in %s; seconds: %s", made, args.output_dir, steps.seconds)


def launched(args: Arguments) -> AbstractContextManager[torch.device]:
    """The processes of the run, and this one's device."""
    first_stage = args.model_config.first_stage_config.get("params") or {}
    return launch.launched(args.device, args.model_parallel_size, first_stage.get("cp_size", 1),
                             args.sequence_parallel_size, args.guidance_parallel_size)


def make_videos(requests: Iterable[list[Job]], args: Arguments, steps: console.Steps) -> int:
    """How many were made, by all processes together: each makes every n-th batch, as it is on one process."""
    with steps("model load"):
        engine = load_engine(args)
    rank, size = groups.data_rank_and_size()
    made = 0
    for jobs in requests:  # the prompts of a file all at once, typed ones one by one
        batches = list(in_batches(jobs, args.batch_size))[rank::size]
        with steps("prompt encoding"):
            conditions = encode_prompts(engine, itertools.chain(*batches), args)
            if args.offload is not None and args.input_type != "cli":  # no other prompts will come
                engine.offload.drop(TEXT)
        for batch in batches:
            make_batch(engine, batch, conditions, args, steps)
        made += len(jobs)
    return made


def make_batch(engine: DiffusionEngine, batch: Sequence[Job], conditions: Mapping, args: Arguments,
               steps: console.Steps) -> None:
    filmstrip = None if args.save_denoised_every is None else Filmstrip(args.save_denoised_every)
    with steps("diffusion sampling") as sampling:
        latents, trace = sample_latents(engine, batch, conditions, args, filmstrip)
    skipped = trace.pop("passes_skipped")
    for row, (job, z) in enumerate(zip(batch, latents, strict=True)):
        with steps("decode and save") as saving:
            save(engine, job, z, args)
            if filmstrip is not None:
                filmstrip.write(job.folder / FILMSTRIP, engine, row, job.plan.pad_latents)
            if not groups.leads_its_copy():
                continue
            seconds = steps.seconds | {STEPS[3]: sampling.seconds, STEPS[4]: saving.seconds}
            share = {"passes_skipped": skipped[row]} if skipped else {}
            write_record(job.folder, record_of(job, args, trace | share) | {"seconds": seconds})
        logger.info("%s", job.folder)


def summary(args: Arguments) -> str:
    plan = plan_video(model_limits(args.model_config), args)
    return (f"{plan.frames} frames of {plan.height} x {plan.width} at {plan.fps} fps from {args.load}, "
            f"seed {args.seed}, on {args.device}")


def plan_requests(args: Arguments) -> Iterable[list[Job]]:
    """Lists of videos to make, one list after the other.

    All that can be wrong with configuration, checkpoint, prompts, images and sizes is looked for here, before any
    weights are read.
    """
    model = check_model(args.model_config)
    check_device(model, args.device, resolve_dtype(args.fp16, args.bf16))
    check_config(args.data_config, "data")
    if args.image2video not in (None, model.noised_image_input):
        raise ConfigError(f"args.image2video is {str(args.image2video).lower()}, but model.noised_image_input is "
                          f"{str(model.noised_image_input).lower()}; leave args.image2video out")
    if model.sampler_config is None:
        raise ConfigError("model.sampler_config is missing; give the sampler's target and params")
    if args.load is None:
        raise CheckpointError("args.load is missing; set it to the folder or file of the transformer's weights")
    limits = model_limits(args.model_config)
    extend_positions(args.model_config, plan_video(limits, args).frames)
    if args.load_lora is not None:
        configure_lora(args.model_config, args.load_lora)
    check_network(args.model_config.network_config, args.load)
    check_clips(args)
    check_quantization(args)
    tiling_of(args)  # asked for here, so that a mistake is answered before weights are read
    typed = args.input_type == "cli"
    if typed and ranks.processes() > 1:
        raise ConfigError("args.input_type is cli, but several processes cannot share a keyboard; give the prompts in "
                          "a file, args.input_type=txt")
    source = "clip" if starts_from_clips(args) else "image" if model.noised_image_input else None
    prompts = ask_prompts(source) if typed else read_prompts(args.input_file, source)
    check_writable(args.output_dir)
    return (plan_jobs([prompt], limits, args) for prompt in prompts) if typed else [plan_jobs(prompts, limits, args)]


def load_engine(args: Arguments) -> DiffusionEngine:
    device, args = args.device, at_rest(args)
    dtype = resolve_dtype(args.fp16, args.bf16)
    network = build_network(args.model_config.network_config, args.load, dtype, args.device)
    engine = DiffusionEngine(args, network).eval()
    if args.load_lora is not None:
        load_lora(engine.network, args.load_lora)
    engine.save_memory(args)
    quantize_engine(engine, args)
    if args.offload is not None:
        offload_engine(engine, args.offload, device)
    engine.share_work()
    return engine


@torch.no_grad()
def encode_prompts(engine: DiffusionEngine, jobs: Iterable[Job], args: Arguments) -> dict[int, tuple[Mapping, Mapping]]:
    """(cond, uncond) of one row each by prompt index. Without a negative prompt the unconditional text is zeros,
    which is what training dropped to."""
    conditions = {}
    prompts = {job.prompt.index: job.prompt for job in jobs}
    for index, prompt in console.progress(prompts.items(), "prompts", disable=len(prompts) < 2):
        zeroed = ["txt"] if args.negative_prompt is None else []
        conditions[index] = engine.conditioner.get_unconditional_conditioning(
            {"txt": [prompt.text]}, {"txt": [args.negative_prompt or ""]}, force_uc_zero_embeddings=zeroed)
    return conditions


def sample_latents(engine: DiffusionEngine, batch: Sequence[Job], conditions: Mapping, args: Arguments,
                   watch: Callable[[StepInfo], None] | None = None) -> tuple[Tensor, dict]:
    """Latents (B, T, C, h, w) of a batch, padding dropped; and guidance scale, noise level and the network passes so
    far of every step, and which share of them a step cache skipped in each row. `watch` is called after each."""
    cond, uncond = ({key: torch.cat([conditions[job.prompt.index][half][key] for job in batch])
                     for key in conditions[batch[0].prompt.index][half]} for half in (0, 1))
    shape = batch[0].plan.latent_shape
    if batch[0].image is not None:
        images = [engine.encode_image(job.image[None].to(engine.device), shape[0], job.generator(args.seed, "image"))
                  for job in batch]
        cond["concat"] = uncond["concat"] = torch.cat(images)
    start = find_start(engine, batch, cond, args)
    if args.invert:
        for job, noise in zip(batch, start.latents, strict=True) if groups.leads_its_copy() else ():
            save_latents(job.folder / NOISE, noise, job.plan.fps)
    trace = {"guidance_scale": [], "noise": [], "passes": [], "passes_skipped": ()}
    with console.progress(desc=", ".join(str(job.prompt.index) for job in batch), unit="step") as bar:

        def after_step(step) -> None:
            bar.total = step.num_steps
            bar.update()
            trace["guidance_scale"].append(float(step.scale))
            trace["noise"].append({"alpha": step.alpha, "sigma": step.sigma, "timestep": step.timestep})
            trace["passes"].append(step.passes)
            trace["passes_skipped"] = step.skipped
            if watch is not None:
                watch(step)

        latents = engine.sample(cond, None if args.invert else uncond, batch_size=len(batch), shape=shape,
                                callback=after_step, generator=[job.generator(args.seed) for job in batch], start=start)
    return latents[:, batch[0].plan.pad_latents:], trace


def save(engine: DiffusionEngine, job: Job, latents: Tensor, args: Arguments) -> None:
    """Writes the video of latents (T, C, h, w) with its contact sheet, or only the latents."""
    if args.only_save_latents and groups.leads_its_copy():
        save_latents(job.folder / LATENTS, latents, job.plan.fps)
    elif not args.only_save_latents:
        decode(engine, latents, job.folder, job.plan.fps)


def decode(codec, latents: Tensor, folder: Path, fps: int) -> None:
    pieces = codec.decode_chunks(latents[None].transpose(1, 2))
    if groups.leads_its_copy():
        pieces = console.progress(pieces, "decode", unit="chunk", leave=False)
        write_outputs(folder, (piece[0] for piece in pieces), fps)
    elif len(groups.context_group()[1]) > 1:
        for _ in pieces:  # decoded together, written by one
            pass


def record_of(job: Job, args: Arguments, trace: Mapping) -> dict:
    """What it takes to make this video again, and what happened on the way."""
    plan = job.plan
    return {"prompt": job.prompt.text, "image": job.prompt.image, "clip": job.prompt.clip,
            "strength": args.strength, "invert": args.invert, "negative_prompt": args.negative_prompt,
            "seed": args.seed, "prompt_index": job.prompt.index, "sample": job.sample,
            "frames": plan.frames, "height": plan.height, "width": plan.width, "fps": plan.fps,
            "device": str(args.device), "versions": versions(), **trace,
            "config": OmegaConf.to_container(args.config, resolve=True)}


def decode_saved_latents(args: Arguments) -> None:
    """Latents written with `only_save_latents` to the videos they would have become, in the same folders' names."""
    check_device(check_model(args.model_config), args.device, resolve_dtype(args.fp16, args.bf16))
    limits = model_limits(args.model_config)
    found = find_latents(args.input_file)
    check_writable(args.output_dir)
    codec = build_codec(args).eval()
    codec.save_memory(args)
    rank, size = groups.data_rank_and_size()
    for path, relative in console.progress(found[rank::size], "videos"):
        latents, fps = load_latents(path)
        if latents.dim() != 4 or latents.shape[1] != limits.channels or latents.shape[0] % 2 == 0:
            raise DataError(f"{path} holds latents of shape {tuple(latents.shape)}; this model decodes "
                            f"(odd frames, {limits.channels}, height, width)")
        folder = Path(args.output_dir) / relative
        decode(codec, latents.to(args.device), folder, fps)
        beside = path.parent / RECORD
        record = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        if groups.leads_its_copy():
            write_record(folder, record | {"decoded_from": str(path)})
    logger.info("%d video(s) in %s", len(found), args.output_dir)


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(sample_videos, argv)


if __name__ == "__main__":
    sys.exit(main())
