"""Problems that studies solve: two with exact answers, and those of the small model."""
import math
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from benchmarks.exact import SHAPE, FiniteData, WithoutLastJump, solve_flow
from benchmarks.studies.autoencoders import AutoencoderTraining
from benchmarks.studies.base import Problem
from benchmarks.studies.clip_density import ClipWorld
from benchmarks.studies.grid import Cell, Study, VariantCell, check_keys
from benchmarks.studies.rank_losses import LossAcrossRanks
from benchmarks.studies.trained_model import SmallModel
from benchmarks.studies.training import Training
from common.errors import ConfigError
from common.kinds import AboveZero, Steps
from common.seeds import generator_for
from common.typed import typed
from configuration.targets import get_obj_from_str
from sgm.sampling import RungeKutta3Sampler, Sampler

REFERENCE_STEPS = 200
HIGHEST = 1000.0  # replaces zero SNR, where the reference cannot start: almost nothing of the data is left


@dataclass(frozen=True, kw_only=True)
class GaussianFlow(Problem):
    """Gaussian data of standard deviation `deviation`; `error` is the distance from the exact probability flow.

    Without `last_jump`, runs end at the schedule's lowest noise level instead of the clean end.
    """

    measures: ClassVar = ("passes", "error")
    deviation: AboveZero = 0.5
    last_jump: bool = True

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        if self.config(cell)["guidance"] is not None:
            raise ConfigError(f"{cell}: problem.kind gaussian has no exact answer with guidance; use finite")
        if not self.last_jump:
            sampler.discretization = WithoutLastJump(sampler.discretization)
        error, passes = solve_flow(sampler, cell.steps, self.deviation)
        return {"passes": passes, "error": error}


@dataclass(frozen=True, kw_only=True)
class FiniteCurve(Problem):
    """Data of `clips` clips along a closed curve, sampled `rows` times with the exact softmax denoiser.

    `error` is the root mean square distance from the end of the probability flow from the same noise, computed by a
    third-order solver with many steps. `energy` is the energy distance (Szekely and Rizzo 2013) between the samples and
    the clips, with guidance only the half of the clips that the conditioning selects; 0 means the same distribution.
    `floor` is the energy distance of exact samples of the data, below which `energy` cannot be expected to fall.
    """

    measures: ClassVar = ("passes", "error", "energy", "floor")
    clips: Steps = 128
    rows: Steps = 256

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


PROBLEMS: dict[str, type[Problem]] = {
    "gaussian": GaussianFlow, "finite": FiniteCurve, "small_model": SmallModel, "clips": ClipWorld,
    "loss_across_ranks": LossAcrossRanks, "training": Training, "autoencoder_training": AutoencoderTraining}


def problem_of(study: Study) -> Problem:
    """Build the study's problem. Raises ConfigError for an unknown problem or parameter, or an invalid variant."""
    kind, where = _kind_of(study), f"study {study.name}: problem"
    params = {key: value for key, value in study.problem.items() if key != "kind"}
    check_keys(params, [f.name for f in fields(kind) if f.init], where)
    if kind.cell_type is not study.cell_type:
        needs = "variants" if kind.cell_type is VariantCell else "samplers and schedules"
        raise ConfigError(f"{where}.kind {study.problem['kind']} needs {needs}")
    problem = kind(**typed(kind, params, where))
    for name, variant in study.variants.items():
        problem.check(variant, f"study {study.name}: variants.{name}")
    return problem


def _kind_of(study: Study) -> type[Problem]:
    """Return the class that `problem.kind` names, in this file's list or by its dotted path."""
    kind, where = study.problem.get("kind"), f"study {study.name}: problem.kind"
    if isinstance(kind, str) and kind in PROBLEMS:
        return PROBLEMS[kind]
    if not isinstance(kind, str) or "." not in kind:
        raise ConfigError(f"{where} {kind} is none of {', '.join(PROBLEMS)}, nor the dotted path of a class")
    found = get_obj_from_str(kind, where)
    if not issubclass(found, Problem) or not is_dataclass(found):
        raise ConfigError(f"{where}: {kind} is no frozen dataclass below benchmarks.studies.base.Problem")
    measures = getattr(found, "measures", None)
    if not isinstance(measures, tuple) or not all(isinstance(name, str) for name in measures):
        raise ConfigError(f"{where}: {kind} declares no measures; write measures: ClassVar = (\"error\",)")
    if taken := sorted({f.name for f in fields(found.cell_type)} & set(measures)):
        raise ConfigError(f"{where}: {kind} has the measure {taken[0]}, which is a column of every study; rename it")
    if found.solve is Problem.solve:
        raise ConfigError(f"{where}: {kind} defines no solve(self, part, cell)")
    return found


def closed_curve(clips: int) -> torch.Tensor:
    """Return clips (clips, T, C, H, W) on a curve: harmonics of one angle, with amplitudes 1 / frequency."""
    shape = SHAPE[1:]
    angles = torch.arange(clips, dtype=torch.float64)[:, None] * 2 * math.pi / clips
    frequency = torch.arange(1, math.prod(shape) // 2 + 1, dtype=torch.float64)
    waves = torch.cat([(angles * frequency).cos() / frequency, (angles * frequency).sin() / frequency], dim=1)
    return waves.view(clips, *shape)


def draws(rows: int, seed: int) -> torch.Tensor:
    """Return the noise (rows, T, C, H, W) of a seed."""
    return torch.randn(rows, *SHAPE[1:], generator=generator_for("noise", seed), dtype=torch.float64)


@lru_cache(maxsize=16)
def flow_end(clips: int, rows: int, seed: int, sigma_max: float, conditional: bool) -> torch.Tensor:
    """Return the end of the unguided probability flow from the noise of a seed at `sigma_max`."""
    sampler = RungeKutta3Sampler(discretization_config={
        "target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_max": sigma_max}})
    cond = {"crossattn": torch.full((rows, 1, 1), float(conditional))}
    data = FiniteData(sampler.discretization.parameterization, closed_curve(clips))
    return sampler(data, draws(rows, seed), cond, num_steps=REFERENCE_STEPS)


def energy_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| >= 0 of two sets (N, ...) and (M, ...)."""
    one, other = one.flatten(1), other.flatten(1)
    return float(2 * torch.cdist(one, other).mean() - torch.cdist(one, one).mean() - torch.cdist(other, other).mean())
