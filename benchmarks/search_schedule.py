"""Search for schedules of few steps for the small model, and their solver error on prompts and noise not searched on.

    python -m benchmarks.search_schedule --steps 6 8 12                  # searches, writes sigmas_6.yaml, ...
    python -m benchmarks.search_schedule --steps 6 8 12 --compare FOLDER # compares those in FOLDER with others

Each file is a `discretization_config` of a TabulatedDiscretization. See docs/samplers.md.
"""
import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
import yaml

from benchmarks.command_line import refuse_given
from benchmarks.markdown import table
from benchmarks.schedule_costs import (
    HIGHEST,
    LOWEST,
    Trajectory,
    best_levels,
    candidates,
    refined,
    step_errors,
    weighted,
)
from benchmarks.schedule_moves import moved
from benchmarks.studies.statistics import holm, middle, resampled, signed_rank_p
from common.console import run
from common.errors import ConfigError
from common.files import whole_file
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain, read_mapping
from sgm.sampling import Sampler, StepInfo

PLAIN = {"target": "sgm.guiders.VanillaCFG", "params": {"scale": 3.0}}
TABULATED = "sgm.discretizer.TabulatedDiscretization"
SOLVER = "sgm.sampling.DPMPP2MSampler"
BY_HAND: Mapping[str, Mapping] = {
    "as trained": {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": 1.0}},
    "VP ramp": {"target": "sgm.discretizer.VPRampDiscretization"},
    "EDM ramp": {"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_min": LOWEST}},
    "even log-SNR": {"target": "sgm.discretizer.LogSNRDiscretization", "params": {"sigma_min": LOWEST}}}

Solve = Callable[..., torch.Tensor]  # (sampler, callback=None) -> latents (B, ...)


def sampler_of(target: str, discretization: Mapping, steps: int) -> Sampler:
    """Return a sampler with plain guidance."""
    return instantiate_from_config({"target": target, "params": {
        "discretization_config": discretization, "num_steps": steps, "guider_config": PLAIN}})


def tabulated(sigmas: Sequence[float]) -> dict:
    """Return the `{target, params}` of a schedule with these sigmas."""
    return {"target": TABULATED, "params": {"sigmas": [float(f"{sigma:.5g}") for sigma in sigmas]}}


def converged(solve: Solve, count: int, parts: int) -> Trajectory:
    """Solve with a third-order method on `count` candidate levels, each interval in `parts` steps."""
    sigmas, seen = candidates(count), []
    fine = refined(sigmas, parts)

    def keep(step: StepInfo) -> None:
        if step.index % parts == 0:
            seen.append((step.x / step.alpha, step.denoised))

    end = solve(sampler_of("sgm.sampling.DPMPP3MSampler", tabulated(fine), len(fine)), keep)
    x, denoised = (torch.stack(tensors) for tensors in zip(*seen, strict=True))
    return Trajectory(sigmas, x, denoised, end)


def searched(solve: Solve, run: Trajectory, steps: int, powers: Sequence[float]) -> tuple[dict, float]:
    """Return the schedule of `steps` steps, of those found with `powers`, whose runs end nearest, and its error."""
    below = run.after_first()  # nearly nothing happens above the second candidate
    found, ends = step_errors(below)
    chosen = [best_levels(weighted(found, below.sigmas, power), ends, steps) for power in powers]
    return nearest_of(solve, run, [tabulated([below.sigmas[i] for i in levels]) for levels in chosen], steps)


def nearest_of(solve: Solve, run: Trajectory, schedules: Sequence[Mapping], steps: int) -> tuple[dict, float]:
    """Return the schedule whose runs of `steps` steps end nearest to the converged run, and its error."""
    found = [(float(errors(solve, SOLVER, one, steps, run.end).mean()), one) for one in schedules]
    error, schedule = min(found, key=lambda one: one[0])
    return dict(schedule), error


def improved(solve: Solve, run: Trajectory, starts: Sequence[Mapping], steps: int, trials: int) -> tuple[dict, float]:
    """Return a schedule whose levels were moved from each of `starts`, `trials` runs each, and its error."""
    def error_of(sigmas: Sequence[float]) -> float:
        return float(errors(solve, SOLVER, tabulated(sigmas), steps, run.end).mean())

    found = [moved(error_of, levels_of(one, steps), trials) for one in starts]
    sigmas, error = min(found, key=lambda one: one[1])
    return tabulated(sigmas), error


def levels_of(schedule: Mapping, steps: int) -> list[float]:
    """Return the sigmas (sigma / alpha) of a schedule of `steps` steps; zero SNR counts as the highest candidate."""
    levels = sampler_of(SOLVER, schedule, steps).schedule().levels()
    return [min(level.ratio, HIGHEST) for level in levels if not level.clean]


def errors(solve: Solve, target: str, schedule: Mapping, steps: int, end: torch.Tensor) -> np.ndarray:
    """Return each row's root mean square distance (B,) from the converged end."""
    out = solve(sampler_of(target, schedule, steps))
    return (out - end).flatten(1).square().mean(1).sqrt().double().cpu().numpy()


def compared(solve: Solve, end: torch.Tensor, schedules: Mapping[str, Mapping], target: str, steps: int) -> list[dict]:
    """Return a row for each schedule: its mean error, and `found`'s less its own with a paired interval and a p-value.

    The p-value is Wilcoxon's of the errors' logarithms, not yet corrected.
    """
    by_name = {name: errors(solve, target, one, steps, end) for name, one in schedules.items()}
    rows = []
    for name, error in by_name.items():
        gain = by_name["found"] - error
        low, high = middle(resampled(len(gain), lambda rows, gain=gain: gain[rows].mean()))
        p = signed_rank_p(np.log(by_name["found"] / error))
        rows.append({"steps": str(steps), "schedule": name, "error": f"{error.mean():.4f}",
                     "less": f"{gain.mean():+.4f} ({low:+.4f} to {high:+.4f})", "p": p})
    return rows


def corrected(rows: Sequence[Mapping]) -> list[list[str]]:
    """Return the rows of `compared` as a table's, with p-values corrected for the number of comparisons (Holm)."""
    others = [row for row in rows if row["schedule"] != "found"]
    p_values = iter(holm([row["p"] for row in others]))
    return [[row["steps"], row["schedule"], row["error"], *(["", ""] if row["schedule"] == "found" else
                                                          [row["less"], f"{next(p_values):.2g}"])] for row in rows]


def small_model(first: int, every: int, draws: int, seed: int) -> Solve:
    """Return a function that solves for latents of every n-th prompt from `first`, always from the same `draws` noises.
    """
    from benchmarks.small_model import chosen, sample_batch  # imported late: SwissArmyTransformer takes seconds
    from benchmarks.studies.trained_model import loaded
    from inference.sizes import model_limits, plan_video

    engine, args = loaded(())
    shape = plan_video(model_limits(args.model_config), args.sampling).latent_shape
    batch = list(chosen(1)[first::every]) * draws

    @torch.no_grad()
    def solve(sampler: Sampler, callback: Callable[[StepInfo], None] | None = None) -> torch.Tensor:
        engine.sampler = sampler
        return sample_batch(engine, batch, shape, seed, callback=callback)
    return solve


def search(options: argparse.Namespace) -> str:
    """Search for a schedule of each number of steps and write it; return a table of the errors on these prompts."""
    solve = small_model(options.every // 2, options.every, options.draws, options.seed)
    run, rows = converged(solve, options.levels, options.parts), []
    for steps in options.steps:
        planned = searched(solve, run, steps, options.powers)
        by_hand = nearest_of(solve, run, [*BY_HAND.values()], steps)
        schedule, error = improved(solve, run, [planned[0], by_hand[0]], steps, options.trials)
        with whole_file(options.out / f"sigmas_{steps}.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(schedule, sort_keys=False))
        rows.append([str(steps), *(f"{one:.4f}" for one in (planned[1], by_hand[1], error)),
                     ", ".join(map(str, schedule["params"]["sigmas"]))])
    return table(["steps", "planned", "best by hand", "moved", "sigmas"], rows)


def compare(options: argparse.Namespace) -> str:
    """Return the table of errors on the prompts between those of the search, from noise of the next seed."""
    solve = small_model(0, options.every, options.draws, options.seed + 1)
    end = converged(solve, options.levels, options.parts).end
    ramp = BY_HAND["VP ramp"]
    agreed = errors(solve, "sgm.sampling.RungeKutta3Sampler", ramp, options.levels, end).mean()
    rows = []
    for steps in options.steps:
        path = options.compare / f"sigmas_{steps}.yaml"
        if not path.is_file():
            raise ConfigError(f"--compare {options.compare}: no {path.name} there; search for it first")
        schedules = {"found": plain(read_mapping(path)), **BY_HAND}
        rows += compared(solve, end, schedules, SOLVER, steps)
    shown = table(["steps", "schedule", "error", "found less this (95 %)", "p, corrected"], corrected(rows))
    return f"{shown}\n\nThe converged runs agree with RungeKutta3Sampler to {agreed:.4f}."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 8, 12], help="numbers of steps")
    parser.add_argument("--levels", type=int, default=40, help="candidate levels (default: %(default)s)")
    parser.add_argument("--parts", type=int, default=3, help="steps of the converged run between two (default: 3)")
    parser.add_argument("--powers", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.0, 3.0],
                        help="weights of the errors at high noise to try (default: 0.5 1 1.5 2 3)")
    parser.add_argument("--trials", type=int, default=60,
                        help="runs in which levels are moved, from each of two schedules (default: %(default)s)")
    parser.add_argument("--every", type=int, default=6, help="every n-th of 108 prompts (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=1, help="noises of each prompt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100, help="of the noise; comparisons take the next")
    parser.add_argument("--out", type=Path, default=Path("runs/schedules"), help="folder of the schedules")
    parser.add_argument("--compare", type=Path, help="folder of schedules to compare with others")
    options = parser.parse_args(argv)
    for name, least in (("steps", 2), ("levels", 3), ("parts", 1), ("trials", 1), ("every", 2), ("draws", 1)):
        values = getattr(options, name)
        if min(values if isinstance(values, list) else [values]) < least:
            raise ConfigError(f"--{name}: {values} must be at least {least}")
    if options.compare is not None:
        refuse_given(parser, options, ("trials", "powers", "out"), "with --compare")
    if max(options.steps) > options.levels:
        raise ConfigError(f"--steps: {max(options.steps)} needs as many --levels, not {options.levels}")
    sys.stdout.write((search if options.compare is None else compare)(options) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
