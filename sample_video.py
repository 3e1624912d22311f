"""Sample videos from prompts, images or clips, in five steps.

    python sample_video.py --base configs/tiny_t2v.yaml configs/inference.yaml --seed 1

With `--plan` nothing is loaded: it reports the videos that would be made, and the memory and time they take.
With `--from-metadata RECORD` the videos of records are made again.
"""
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

gc.disable()  # while modules are imported: they leave no garbage, and looking for it takes a tenth of the time
sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

import torch
from torch import Tensor

from arguments import get_args
from cogvideo.pipeline import Pipeline
from common import console
from common.errors import ConfigError, DataError
from common.files import whole_files
from common.ranks import is_main_process, report_once
from configuration.settings import Arguments
from configuration.unread import warn_typed
from inference.checks import check_division, check_prompts, check_run, source_of_prompts
from inference.circumstances import group_sizes
from inference.decoding import check_decoding, decode_saved_latents, record_of, save, shown, write_last
from inference.filmstrip import FILMSTRIP, Filmstrip
from inference.jobs import Job, in_batches, plan_jobs
from inference.made_from import Entries, run_made_from
from inference.output_folder import check_names, own_output
from inference.overlap import finisher
from inference.pipeline import Conditions
from inference.prompts import Prompt, ask_prompts, read_prompts
from inference.record_differences import is_same
from inference.remaking import Again, plan_again, read_again
from inference.resuming import unfinished
from inference.segments import Sampled
from inference.sizes import ModelLimits, model_limits, plan_video
from inference.text_embeddings import (
    check_encoding,
    check_stored,
    encode_texts,
    kept_embeddings,
    load_conditioner,
    prepare_text_embeddings,
    texts_of,
    write_text_embeddings,
)
from memory.offload import TEXT
from parallel import groups, launch

gc.enable()
logger = logging.getLogger("sample_video")

STEPS = ("configuration", "model load", "prompt encoding", "diffusion sampling", "decode and save")


def sample_videos(argv: Sequence[str] | None = None) -> None:
    """Do what the command line asks: report a plan, decode saved latents, or sample from typed or written prompts."""
    steps = console.Steps(*STEPS)
    with steps("configuration", announce=False), report_once():
        again = read_again(argv, __doc__)
    if again:
        make_again(again, steps)
        return
    with steps("configuration", announce=False), report_once():
        args = get_args(argv, __doc__)
        warn_typed(args, "sample_video.py")
        check_decoding(args)
        check_division(args)
        prepare_text_embeddings(args)
        if args.run.plan:
            show_plan_of(args)
    if args.run.plan:
        return
    with console.faults_beside(args.sampling.output_dir):
        if args.sampling.input_type == "latents":
            with run_processes(args) as device:
                decode_saved_latents(args, device)
        elif args.sampling.save_text_embeddings is not None:
            save_text_embeddings(args, steps)
        elif args.sampling.input_type == "cli":
            sample_typed_prompts(args, steps)
        else:
            sample_prompt_file(args, steps)


def sample_prompt_file(args: Arguments, steps: console.Steps) -> None:
    """Make the videos of all prompts of a file, which the run's processes share."""
    with ExitStack() as held:
        with steps("configuration", announce=False), report_once():
            limits = check_run(args)
            prompts = read_prompts(args.sampling.input_file, source_of_prompts(args.sampling, args.model_config))
            held.enter_context(own_output(args.sampling.output_dir))
            jobs = jobs_of(prompts, limits, args, run_made_from(args))
        steps.announce("configuration", f": {summary(args)}")
        if not jobs:
            logger.info("every video of this run is finished already, in %s", args.sampling.output_dir)
            return
        make_jobs(jobs, args, limits, steps)
    logger.info("%d video(s) in %s; seconds: %s", len(jobs), args.sampling.output_dir, steps.seconds)


def make_again(runs: Sequence[Again], steps: console.Steps) -> None:
    """Make videos again from their records, those of one configuration with one loaded model."""
    shared = runs[0].args  # what the command line sets is the same for all
    with console.faults_beside(shared.sampling.output_dir), ExitStack() as held:
        with steps("configuration", announce=False), report_once():
            for again in runs:
                check_division(again.args)
                prepare_text_embeddings(again.args)
                if shared.run.plan:
                    show_plan_of(again.args)
            if shared.run.plan:
                return
            held.enter_context(own_output(shared.sampling.output_dir))
            planned = plan_again(runs)
        for again, each in zip(runs, planned, strict=True):
            steps.announce("configuration", f": {len(again.records)} record(s), {summary(again.args)}")
            if each.jobs:
                make_jobs(each.jobs, again.args, each.limits, steps)
        if is_main_process():
            same = [is_same(recorded, job.folder) for each in planned for recorded, job in each.videos]
            logger.info("%d of %d video(s) have the bytes that their records describe; in %s; seconds: %s", sum(same),
                        len(same), shared.sampling.output_dir, steps.seconds)


def make_jobs(jobs: Sequence[Job], args: Arguments, limits: ModelLimits, steps: console.Steps) -> None:
    """Load the model and make these videos, which the run's processes share."""
    with run_processes(args) as device:
        with steps("model load"):
            pipe = Pipeline.load(args, limits, device)
        with steps("prompt encoding"):
            conditions = pipe.encode(own_jobs(jobs, args.sampling.batch_size))
        if pipe.engine.offload is not None:
            pipe.engine.offload.drop(TEXT)  # no other prompts will come
        make_videos(pipe, jobs, conditions, steps)


def sample_typed_prompts(args: Arguments, steps: console.Steps) -> None:
    """Make the videos of each prompt when it has been typed."""
    with ExitStack() as held:
        with steps("configuration", announce=False), report_once():
            limits = check_run(args)
            held.enter_context(own_output(args.sampling.output_dir))
            run = run_made_from(args)
        steps.announce("configuration", f": {summary(args)}")
        made = 0
        with run_processes(args) as device:
            with steps("model load"):
                pipe = Pipeline.load(args, limits, device)
            for prompt in ask_prompts(source_of_prompts(args.sampling, args.model_config)):
                try:
                    jobs = jobs_of([prompt], limits, args, run)
                except (ConfigError, DataError) as error:  # such as a damaged clip, which must not end the run
                    logger.warning("%s", error)
                    continue
                with steps("prompt encoding"):
                    conditions = pipe.encode(jobs)
                make_videos(pipe, jobs, conditions, steps)
                made += len(jobs)
    logger.info("%d video(s) in %s; seconds: %s", made, args.sampling.output_dir, steps.seconds)


def save_text_embeddings(args: Arguments, steps: console.Steps) -> None:
    """Write the text embeddings of all prompts of a file; neither transformer nor autoencoder is loaded.

    A resumed run keeps those that the file has, also of other prompts.
    """
    with steps("configuration", announce=False):
        path = check_encoding(args)
        prompts = read_prompts(args.sampling.input_file, source_of_prompts(args.sampling, args.model_config))
        kept = kept_embeddings(path, args)
        texts = [text for text in texts_of(prompts, args.sampling.negative_prompt) if text not in kept]
    if not texts:
        logger.info("every text of this run has its text embedding in %s already", path)
        return
    steps.announce("configuration", f": text embeddings of {len(texts)} text(s), on {args.run.device}")
    with steps("model load"):
        conditioner = load_conditioner(args)
    with steps("prompt encoding"):
        write_text_embeddings(path, kept | encode_texts(conditioner, texts), args)


def make_videos(pipe: Pipeline, jobs: Sequence[Job], conditions: Conditions, steps: console.Steps) -> None:
    """Sample this process's batches one after the other, and decode and save the videos of each."""
    settings = pipe.args.sampling
    with finisher(pipe.args, pipe.engine.device) as thread:
        for batch in own_batches(jobs, settings.batch_size):
            filmstrip = None if settings.save_denoised_every is None else Filmstrip(settings.save_denoised_every)
            with steps("diffusion sampling") as sampling:
                sampled = pipe.sample(batch, conditions, watch=filmstrip)
                spent = sampling.seconds
            thread.wait()
            for row, job in enumerate(batch):
                if job.written:
                    frames = sampled.frames(pipe.engine, row)
                    finish = partial(finish_video, pipe, batch, row, sampled, filmstrip, steps, spent)
                    hidden = settings.only_save_latents or not thread.shows_progress
                    thread.run(finish, shown(frames, hidden))


def finish_video(pipe: Pipeline, batch: Sequence[Job], row: int, sampled: Sampled, filmstrip: Filmstrip | None,
                 steps: console.Steps, sampling: float, frames: Iterator[Tensor]) -> None:
    """Write the files and the record of a sampled video from the chunks of frames that it is decoded to."""
    job, settings = batch[row], pipe.args.sampling
    with whole_files() as files:
        with steps("decode and save") as saving:
            written = save(frames, job, sampled, row, settings.only_save_latents, files)
            if filmstrip is not None:
                filmstrip.write(job.folder / FILMSTRIP, pipe.engine, row, files, job.plan.pad_latents)
        if groups.leads_copy():
            spent = {"diffusion sampling": sampling, "decode and save": saving.seconds}
            record = record_of(batch, row, pipe.args, pipe.engine.device, sampled.trace.of_row(row))
            write_last(job, record | {"seconds": steps.seconds | spent}, written, files)
    if groups.leads_copy():
        logger.info("%s", job.folder)


def own_batches(jobs: Sequence[Job], size: int) -> Sequence[list[Job]]:
    """Return this process's share of the batches, which are the same on any number of processes."""
    return groups.own_share(list(in_batches(jobs, size)))


def own_jobs(jobs: Sequence[Job], size: int) -> list[Job]:
    """Return those videos of a run that this process makes."""
    return [job for batch in own_batches(jobs, size) for job in batch]


def jobs_of(prompts: Sequence[Prompt], limits: ModelLimits, args: Arguments, run: Entries) -> list[Job]:
    """Return the videos to make of these prompts; `run` is what all videos of the run are made from."""
    check_prompts(args.model_config, prompts)
    jobs = plan_jobs(prompts, limits, args.sampling, image_input(args), run)
    check_names(jobs, args.sampling.output_dir)
    jobs = unfinished(jobs, args.sampling) if args.sampling.resume else jobs
    check_stored(jobs, args)
    return jobs


def image_input(args: Arguments) -> bool:
    """Return True if the model takes an image beside the prompt."""
    return args.model_config.get("noised_image_input", False)


def run_processes(args: Arguments) -> AbstractContextManager[torch.device]:
    """Return the context in which the run's processes work together; it yields this process's device."""
    return launch.launched(args.run.device, group_sizes(args))


def show_plan_of(args: Arguments) -> None:
    """Log what a run would make and take."""
    from dry_run.report import show_plan  # takes as long to import as torch, and a run does not need it

    show_plan(args)


def summary(args: Arguments) -> str:
    """Return a line on the videos that will be made."""
    plan = plan_video(model_limits(args.model_config), args.sampling)
    return (f"{plan.frames} frames of {plan.height} x {plan.width} at {plan.fps} fps from {args.run.load}, "
            f"seed {args.run.seed}, on {args.run.device}")


def main(argv: Sequence[str] | None = None) -> int:
    return console.run(sample_videos, argv)


if __name__ == "__main__":
    sys.exit(main())
