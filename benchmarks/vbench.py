"""Videos of VBench's standard suite, sampled and named as its leaderboard wants them, and what a submission needs.

    python -m benchmarks.vbench --base configs/cogvideox_5b.yaml configs/inference.yaml \\
        --prompts all_dimension_longer.txt --names VBench_full_info.json [--out runs/vbench] [key=value …]

Prompts, one a line, are what is sampled from. `--names` are the original prompts, in the same order, by which the
videos are named; without it the prompts are. Both may be a text file or VBench_full_info.json, which also says what is
judged for temporal flickering; beside text files `--flickering` names a list of those original prompts.

`OUT/videos` has {name}-{0..4}.mp4, and {0..24} for temporal flickering. Each video has noise of its own, whose seed is
in `OUT/videos.json`; `OUT/model_info.json` has what the leaderboard lists of a model. A run that is started again makes
what is missing. `torchrun --nproc_per_node N -m benchmarks.vbench …` shares the videos among N processes.

`--evaluate PYTHON` runs the dimensions that need no download with the `vbench` that is installed for that Python, in an
environment of its own; `--names` must be VBench_full_info.json. The other dimensions, and the filter of static videos
before temporal flickering, fetch networks: run vbench itself for them, on `OUT/videos`.
"""
import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

from arguments import get_args
from benchmarks.vbench_evaluation import check_vbench, evaluate
from benchmarks.vbench_submission import GROUPS, SAMPLED, check_folder, publish
from benchmarks.vbench_suite import Suite, read_suite
from common.console import Steps, run
from common.errors import ConfigError
from common.ranks import is_main_process, report_once
from configuration.settings import Arguments
from inference.checks import check_run
from inference.made_from import run_made_from
from inference.output_folder import own_output
from inference.sizes import VideoPlan, model_limits, plan_video

logger = logging.getLogger("vbench")

LONG_SECONDS = 5.0  # from which the leaderboard judges with VBench-Long
OWN_KEYS = ("output_dir", "input_file", "num_samples", "input_type", "resume", "only_save_latents",
            "save_text_embeddings")


def main(argv: Sequence[str] | None = None) -> None:
    options, words = _parser().parse_known_args(argv)
    words = ["--base", *options.base, *words]
    suite = read_suite(options.prompts, options.names or options.prompts, options.flickering)
    args = get_args(words)
    if given := [key for key in OWN_KEYS if key in args.typed]:
        raise ConfigError(f"args.{given[0]}: VBench's suite decides this; leave it out")
    check_folder(suite, options.out)
    args = args.changed(output_dir=str(options.out / SAMPLED))
    plan = plan_video(model_limits(args.model_config), args.sampling)
    if args.model_config.get("noised_image_input", False) or args.model_config.get("control_input", False):
        raise ConfigError("VBench's standard suite is for models that need text alone")
    if options.evaluate is not None:
        check_vbench(options.evaluate, options.names)
    _announce(suite, plan)
    if args.run.plan:
        return
    sample(suite, args)
    if is_main_process():
        publish(suite, args, plan, options.out)
        if options.evaluate is not None:
            evaluate(options.evaluate, options.names, options.out)


def sample(suite: Suite, args: Arguments) -> None:
    """Sample the suite's videos, as many of each prompt as its group has; finished ones are kept.

    Prompts are counted through all groups, so that every video has a seed of its own.
    """
    from sample_video import STEPS, jobs_of, make_jobs, summary  # takes seconds to import

    steps = Steps(*STEPS)
    with steps("configuration", announce=False), report_once():
        limits = check_run(args)
    with own_output(args.sampling.output_dir):
        run = run_made_from(args)
        jobs = [job for name, count in GROUPS.items() if suite.group(name)
                for job in jobs_of(suite.prompts(name), limits, args.changed(num_samples=count, resume=True), run)]
        steps.announce("configuration", f": {summary(args)}")
        if jobs:
            make_jobs(jobs, args, limits, steps)


def _announce(suite: Suite, plan: VideoPlan) -> None:
    """Log how many videos there will be, and which of VBench's suites judges them."""
    if not is_main_process():
        return
    seconds = plan.frames / plan.fps
    counts = {name: len(suite.group(name)) for name in GROUPS}
    logger.info("%d videos of %d frames at %d fps: %s", sum(counts[name] * GROUPS[name] for name in GROUPS),
                plan.frames, plan.fps, ", ".join(f"{counts[name]} prompts ({name}) {GROUPS[name]} times"
                                                 for name in GROUPS))
    if seconds >= LONG_SECONDS:
        logger.info("videos last %.2f s: from %.0f s the leaderboard judges with VBench-Long, on the same videos",
                    seconds, LONG_SECONDS)
    if not counts["flickering"]:
        logger.warning("no prompt is known to be for temporal flickering: give VBench_full_info.json to --names, or "
                       "their list to --flickering")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--base", nargs="+", required=True, metavar="YAML", help="configuration of the model")
    parser.add_argument("--prompts", type=Path, required=True, help="what is sampled from, one a line")
    parser.add_argument("--names", type=Path, help="the original prompts, in the same order (default: the prompts)")
    parser.add_argument("--flickering", type=Path, help="original prompts of temporal flickering, one a line")
    parser.add_argument("--out", type=Path, default=Path("runs/vbench"), help="folder (default: %(default)s)")
    parser.add_argument("--evaluate", type=Path, metavar="PYTHON", help="the Python that has vbench installed")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
