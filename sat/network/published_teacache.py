"""TeaCache as its authors publish it for CogVideoX: a step cache whose signal is the time embedding."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from common.errors import ConfigError
from network.context import VideoContext
from network.step_cache import RowState, StepCache, polynomial_at, relative_change

ModelName = Literal["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"]
# Fitted by the authors to each released model, highest power first.
POLYNOMIALS: Mapping[ModelName, tuple[float, ...]] = {
    "2b": (-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434),
    "5b": (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
    "5b-i2v": (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
    "1.5-5b": (250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703),
    "1.5-5b-i2v": (122.842302, -104.088754, 26.2981677, -0.306009921, 0.037121322),
}


@dataclass(kw_only=True)
class PublishedTeaCache(StepCache):
    """Step cache by the time embedding, before its SiLU and with `ofs` (Liu et al. 2024, TeaCache, for CogVideoX).

    The embedding's relative L1 changes between forward passes add up, each rescaled by the polynomial of the released
    `model`, or by `polynomial` (highest power first) for another one. Which steps are skipped depends on the timesteps
    alone, so it is the same for all rows, and known before sampling. A timestep that is evaluated again, as where a
    continuing segment adds noise back and repeats a step, is decided as it was. Raises ConfigError unless exactly one
    of the two is given.
    """

    model: ModelName | None = None
    polynomial: Annotated[Sequence[float], MinLen(1)] | None = None

    def __post_init__(self):
        if (self.model is None) == (self.polynomial is None):
            raise ConfigError("step_cache_config.params: needs either model, one of "
                              f"{', '.join(POLYNOMIALS)}, or polynomial, numbers that were fitted to this model")

    @property
    def coefficients(self) -> Sequence[float]:
        """The polynomial's coefficients, highest power first."""
        return POLYNOMIALS[self.model] if self.model is not None else self.polynomial or ()

    def signal(self, network, x, context: VideoContext):
        assert context.time is not None
        return context.time.expand(len(x), -1), x, 0

    def compared(self, row: RowState, signal: Tensor) -> RowState:
        assert row.signal is not None
        change = polynomial_at(self.coefficients, relative_change(signal, row.signal))
        return replace(row, signal=signal, change=row.change + change)

    def decided(self, row: RowState, signal: Tensor, kept: bool) -> RowState:
        if row.signal is None or not torch.equal(signal, row.signal):
            return super().decided(row, signal, kept)
        row = replace(row, asked=row.asked + 1)
        return replace(row, skipped=row.skipped + 1) if row.in_a_row else replace(row, residual=None)

    def run(self, network, x, context, done):
        """Run all layers in the network's own way, which may divide the tokens among processes."""
        return network.layer_runner(network, x, context)
