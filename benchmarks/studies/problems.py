"""What a study's samplers are asked to solve: problems with exact answers, and the small model."""
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar, Protocol

import torch

from benchmarks.exact import SHAPE, FiniteData, WithoutLastJump, solve_flow
from benchmarks.studies.grid import Cell, Study, VariantCell, check_keys
from benchmarks.studies.rank_losses import LossAcrossRanks
from benchmarks.studies.small_model import SmallModel
from benchmarks.studies.training import Training
from common.errors import ConfigError
from common.seeds import generator_for
from sgm.sampling import RungeKutta3Sampler, Sampler

REFERENCE_STEPS = 200
HIGHEST = 1000.0  # stands in for zero SNR, where the reference cannot start: next to nothing of the data is left


class Problem(Protocol):
    """Answers a cell with what was measured, one number for each of `measures`. It is given the cell's sampler, or its
    variant where the study has variants, as the problem's `cell_type` says."""

    cell_type: ClassVar[type]
    measures: ClassVar[tuple[str, ...]]

    def solve(self, part: Sampler | Mapping, cell: Cell | VariantCell) -> dict[str, float]: ...


@dataclass(frozen=True)
class GaussianFlow:
    """Gaussian data of a `deviation`: `error` is the distance from the probability flow's closed form.

    Without `last_jump` runs end at the schedule's least noise.
    """

    cell_type = Cell
    measures = ("passes", "error")
    deviation: float = 0.5
    last_jump: bool = True

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        if cell.guidance != "none":
            raise ConfigError(f"{cell}: Gaussian data is solved in closed form without guidance; take finite data")
        if not self.last_jump:
            sampler.discretization = WithoutLastJump(sampler.discretization)
        error, passes = solve_flow(sampler, cell.steps, self.deviation)
        return {"passes": passes, "error": error}


@dataclass(frozen=True)
class FiniteCurve:
    """`clips` clips along a closed curve, `rows` draws, the exact softmax denoiser for a network.

    `error`: root mean square distance from where the probability flow leads from the same noise (a third-order
    solver's answer with many steps). `energy`: energy distance (Szekely and Rizzo 2013) from the draws to the clips, of
    which the half that was asked for counts where there is guidance; 0 is the same distribution. `floor`: the same for
    exact draws of the data, what `energy` cannot be expected to fall below.
    """

    cell_type = Cell
    measures = ("passes", "error", "energy", "floor")
    clips: int = 128
    rows: int = 256

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        guided, passes = cell.guidance != "none", []
        noise = draws(self.rows, cell.seed)
        curve = closed_curve(self.clips)
        cond, uncond = ({"crossattn": torch.full((self.rows, 1, 1), value)} for value in (float(guided), 0.0))
        out = sampler(FiniteData(sampler.discretization.parameterization, curve), noise, cond,
                      uncond if guided else None, generator=generator_for("churn", cell.seed),
                      callback=lambda step: passes.append(step.passes))
        first = min(sampler.schedule().levels()[0].ratio, HIGHEST)
        apart = (out - flow_end(self.clips, self.rows, cell.seed, first, guided)).flatten(1)
        data = curve[:self.clips // 2] if guided else curve
        exact = data[torch.randint(len(data), (self.rows,), generator=generator_for("exact", cell.seed))]
        return {"passes": passes[-1], "error": float(apart.square().sum(1).mean().sqrt()),
                "energy": energy_distance(out, data), "floor": energy_distance(exact, data)}


PROBLEMS: dict[str, type[Problem]] = {"gaussian": GaussianFlow, "finite": FiniteCurve, "small_model": SmallModel,
                                      "loss_across_ranks": LossAcrossRanks, "training": Training}


def problem_of(study: Study) -> Problem:
    """Raises ConfigError for a problem or a parameter that there is not."""
    kind, params = study.problem.get("kind"), {k: v for k, v in study.problem.items() if k != "kind"}
    if kind not in PROBLEMS:
        raise ConfigError(f"study {study.name}: problem.kind {kind} is none of {', '.join(PROBLEMS)}")
    check_keys(params, [f.name for f in fields(PROBLEMS[kind])], f"study {study.name}: problem")
    if PROBLEMS[kind].cell_type is not study.cell_type:
        needs = "variants" if PROBLEMS[kind].cell_type is VariantCell else "samplers and schedules"
        raise ConfigError(f"study {study.name}: problem.kind {kind} needs {needs}")
    problem = PROBLEMS[kind](**params)
    for name, variant in study.variants.items():
        problem.check(variant, f"study {study.name}: variants.{name}")
    return problem


def closed_curve(clips: int) -> torch.Tensor:
    """(clips, T, C, H, W): harmonics of one angle, each with 1 / frequency of the first's amplitude."""
    shape = SHAPE[1:]
    angles = torch.arange(clips, dtype=torch.float64)[:, None] * 2 * math.pi / clips
    frequency = torch.arange(1, math.prod(shape) // 2 + 1, dtype=torch.float64)
    waves = torch.cat([(angles * frequency).cos() / frequency, (angles * frequency).sin() / frequency], dim=1)
    return waves.view(clips, *shape)


def draws(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, *SHAPE[1:], generator=generator_for("noise", seed), dtype=torch.float64)


@lru_cache(maxsize=16)
def flow_end(clips: int, rows: int, seed: int, sigma_max: float, conditional: bool) -> torch.Tensor:
    """Where the unguided probability flow leads the draws of a seed from a noise level."""
    sampler = RungeKutta3Sampler(discretization_config={
        "target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_max": sigma_max}})
    cond = {"crossattn": torch.full((rows, 1, 1), float(conditional))}
    data = FiniteData(sampler.discretization.parameterization, closed_curve(clips))
    return sampler(data, draws(rows, seed), cond, num_steps=REFERENCE_STEPS)


def energy_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets (N, ...) and (M, ...), 0 or more."""
    one, other = one.flatten(1), other.flatten(1)
    return float(2 * torch.cdist(one, other).mean() - torch.cdist(one, one).mean() - torch.cdist(other, other).mean())
