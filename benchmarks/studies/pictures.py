"""Plots of a study's parts, which need no results: scales of its guidances, and trajectories of its samplers."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import torch

from benchmarks.exact import FiniteData
from benchmarks.studies.figures import COLORS, panels, save
from benchmarks.studies.grid import Cell, Study
from common.errors import ConfigError
from sgm.noise_schedule import NoiseLevel
from sgm.sampling import RungeKutta3Sampler, Sampler, StepInfo

POINTS = (-1.0, 0.3, 1.0)  # the values of the one-dimensional data
PATHS = 16
EXACT_STEPS = 300


@dataclass(frozen=True)
class Scales:
    """A plot of the guidance scale over the steps, with a panel for each of `guidances` (default: all)."""

    name: str
    schedule: str
    steps: int
    title: str = ""
    guidances: Sequence[str] | None = None

    def check(self, study: Study, measures: Sequence[str], where: str) -> None:
        """Raise ConfigError for a guidance or schedule that the study does not have."""
        for guidance in self.guidances or ():
            check_name(guidance, study.guidances, f"{where}.guidances")
        check_name(self.schedule, study.schedules, f"{where}.schedule")

    def draw(self, study: Study, path: Path) -> None:
        """Write the plot as PNG."""
        names = list(study.guidances) if self.guidances is None else self.guidances
        grid, highest = panels(names, columns=3, height=2.2), 1.0
        for axes, name in zip(grid, names, strict=True):
            sampler = study.sampler(Cell(next(iter(study.samplers)), self.schedule, name, self.steps, 0))
            scales = [sampler.guider.scale_at(level) for level in sampler.schedule().levels()[:-1]]
            axes.step(range(1, len(scales) + 1), scales, where="mid", color=COLORS[0])
            axes.set(xlabel="step", ylabel="scale")
            highest = max(highest, *scales)
        grid[0].set_ylim(0, 1.05 * highest)  # the y axis is shared
        save(grid, path)


@dataclass(frozen=True)
class Trajectories:
    """A plot of trajectories from noise to one-dimensional data of three values, a panel for each of `samplers`.

    The exact probability flow is dashed. Time is sigma / (alpha + sigma), which is 1 for noise and 0 for clean data; x
    is divided by the root of alpha^2 + sigma^2.
    """

    name: str
    schedule: str
    steps: int
    title: str = ""
    samplers: Sequence[str] | None = None

    def check(self, study: Study, measures: Sequence[str], where: str) -> None:
        """Raise ConfigError for a sampler or schedule that the study does not have."""
        for sampler in self.samplers or ():
            check_name(sampler, study.samplers, f"{where}.samplers")
        check_name(self.schedule, study.schedules, f"{where}.schedule")

    def draw(self, study: Study, path: Path) -> None:
        """Write the plot as PNG."""
        names = list(study.samplers) if self.samplers is None else self.samplers
        config = study.schedules[self.schedule]
        exact = RungeKutta3Sampler(discretization_config=config, num_steps=EXACT_STEPS)
        grid = panels(names, columns=3, height=2.9)
        for axes, name in zip(grid, names, strict=True):
            sampler = study.sampler(Cell(name, self.schedule, next(iter(study.guidances)), self.steps, 0))
            axes.plot(*path_of(sampler), color=COLORS[0], marker="o", markersize=2, linewidth=0.9)
            axes.plot(*path_of(exact), color="k", linestyle="--", linewidth=0.7)
            axes.set(xlabel="time", ylabel="x", xlim=(1.02, -0.02))
        grid[0].annotate("dashed: exact flow", (0.03, 0.03), xycoords="axes fraction")
        save(grid, path)


def path_of(sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """Return times (n + 1,) and scaled values of x (n + 1, PATHS) on paths that start at quantiles of the noise."""
    starts = [NormalDist().inv_cdf((i + 0.5) / PATHS) for i in range(PATHS)]
    noise = torch.tensor(starts, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    places: list[torch.Tensor] = []

    def watch(step: StepInfo) -> None:
        places.append(step.x.flatten() / (step.alpha**2 + step.sigma**2) ** 0.5)

    values = torch.tensor(POINTS, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    data = FiniteData(sampler.discretization.parameterization, values)
    cond = {"crossattn": torch.zeros(PATHS, 1, 1)}
    end = sampler(data, noise, cond, generator=torch.Generator().manual_seed(0), callback=watch)
    times = [time_of(level) for level in sampler.schedule().levels()]
    return torch.tensor(times), torch.stack([*places, end.flatten()])


def time_of(level: NoiseLevel) -> float:
    """Return sigma / (alpha + sigma)."""
    return level.sigma / (level.alpha + level.sigma)


def check_name(name: str, known: Sequence[str], where: str) -> None:
    """Raise ConfigError for a name that the study does not have."""
    if name not in known:
        raise ConfigError(f"{where}: the study has no {name}; it has {', '.join(known)}")
