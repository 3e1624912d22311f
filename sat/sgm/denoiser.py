"""Denoisers: the network's denoised estimate, on a schedule of the same or another noise parameterization."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from common.errors import ConfigError
from common.kinds import AboveZero, Part, Size
from common.tensors import append_dims
from configuration.targets import instantiate_from_config
from sgm.parameterization import VE, VP, Parameterization, named

UNIT_WEIGHTING = {"target": "sgm.denoiser_weighting.UnitWeighting"}


class Denoiser:
    """The denoised estimate c_skip * x + c_out * network(c_in * x, c_noise, cond), with one noise level per row.

    `sigma_max` is the highest sigma that a VE network was trained at; for levels beyond it (zero terminal SNR) the
    network is evaluated at `sigma_max`.
    """

    def __init__(self, scaling_config: Part, weighting_config: Part | None = None, sigma_max: AboveZero = 80.0):
        self.scaling = instantiate_from_config(scaling_config)
        self.weighting = instantiate_from_config(weighting_config or UNIT_WEIGHTING)
        self.sigma_max = sigma_max

    @property
    def parameterization(self) -> Parameterization:
        return named(self.scaling.parameterization)

    def w(self, level: torch.Tensor) -> torch.Tensor:
        """Return the loss weight (B,) at these levels."""
        return self.weighting(level)

    def timestep_at(self, level: torch.Tensor) -> torch.Tensor | None:
        """Return the training timestep (B,) of these levels; None without a table of timesteps."""
        return None

    def timestep_at_ratio(self, ratio: float) -> float | None:
        """Return the training timestep at this sigma / alpha; None without a table of timesteps."""
        level = self.parameterization.level(*self.parameterization.at_ratio(self._reachable(ratio)))
        timestep = self.timestep_at(torch.tensor([level], dtype=torch.float64))
        return None if timestep is None else float(timestep)

    def __call__(self, network: Callable, x: torch.Tensor, level: torch.Tensor, cond: Mapping,
                 idx: torch.Tensor | None = None, **network_inputs) -> torch.Tensor:
        """Return the denoised estimate of x (B, T, C, H, W) at `level` (B,); `idx` (B,) is the timestep, if any."""
        return self.denoise(network, x, self._snap(level), cond, idx, **network_inputs)

    def denoise(self, network: Callable, x: torch.Tensor, level: torch.Tensor, cond: Mapping,
                idx: torch.Tensor | None = None, **network_inputs) -> torch.Tensor:
        """Return the denoised estimate at exactly this level, without snapping it to a table."""
        c_skip, c_out, c_in, c_noise = self.scaling(level, self.timestep_at(level) if idx is None else idx)
        c_skip, c_out, c_in = (append_dims(c, x.ndim) for c in (c_skip, c_out, c_in))
        return network(x * c_in, self._snap_noise(c_noise), cond, **network_inputs) * c_out + x * c_skip

    def check_noise(self) -> None:
        """Raise ConfigError if the network would be told a noise level that means nothing."""

    def check_schedule(self, parameterization: str | Parameterization, timed: bool = True) -> None:
        """Raise ConfigError if the network cannot be evaluated on a schedule; `timed`: the schedule has timesteps."""
        untimed = self.parameterization == VP and self.timestep_at(torch.ones(1)) is None
        if untimed and not (timed and named(parameterization) == VP):
            raise ConfigError("denoiser_config: Denoiser with VideoScaling has no timesteps for the levels of such a "
                              "schedule; use DiscreteDenoiser, or a ZeroSNRDDPMDiscretization in the sampler")

    def bind(self, network: Callable, parameterization: str | Parameterization) -> "BoundDenoiser":
        """Return this denoiser bound to a network, for a sampler whose schedule has this parameterization.

        Raises ConfigError like `check_schedule`.
        """
        self.check_schedule(parameterization)
        return BoundDenoiser(self, network, named(parameterization))

    def level_of(self, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return this denoiser's level (B,) with the signal-to-noise ratio of alpha and sigma (B,); see `sigma_max`."""
        level = self.parameterization.equal_ratio(alpha, sigma)
        return level.clamp(max=self.sigma_max) if self.parameterization == VE else level

    def _reachable(self, ratio: float) -> float:
        return min(ratio, self.sigma_max) if self.parameterization == VE else ratio

    def _snap(self, level: torch.Tensor) -> torch.Tensor:
        return level

    def _snap_noise(self, c_noise: torch.Tensor) -> torch.Tensor:
        return c_noise


class DiscreteDenoiser(Denoiser):
    """A denoiser for a network trained on a table of `num_idx` levels: each level is snapped to the nearest entry.

    With `quantize_c_noise`, `c_noise` is taken for a level and becomes its index in the table; otherwise it stays what
    the scaling returns.
    """

    def __init__(self, scaling_config: Part, num_idx: Size, discretization_config: Part,
                 weighting_config: Part | None = None, do_append_zero: bool = False, quantize_c_noise: bool = True,
                 flip: bool = True):
        super().__init__(scaling_config, weighting_config)
        discretization = instantiate_from_config(discretization_config)
        if discretization.parameterization != self.parameterization:
            raise ConfigError(f"denoiser_config: {type(self.scaling).__name__} works on {self.parameterization} "
                              f"levels, but {type(discretization).__name__} gives {discretization.parameterization}; "
                              "VideoScaling goes with a table of VP levels (ZeroSNRDDPMDiscretization, "
                              "VPDiscretization), FlowScaling with RectifiedFlowDiscretization, the others with sigmas")
        # Not a module's buffer, so that it stays float32 when the network's dtype changes.
        self.sigmas = discretization(num_idx, do_append_zero=do_append_zero, flip=flip)
        self.quantize_c_noise = quantize_c_noise
        table = discretization(num_idx, do_append_zero=False, flip=True).double()
        self._rising = self.parameterization.rising(table)
        if self.parameterization == VE:
            self.sigma_max = float(table[-1])

    def check_noise(self) -> None:
        if self.quantize_c_noise and not getattr(self.scaling, "c_noise_is_level", True):
            raise ConfigError("denoiser_config.params.quantize_c_noise takes c_noise for a level of the table, which "
                              f"{type(self.scaling).__name__} does not give; set quantize_c_noise: false")

    def sigma_to_idx(self, level: torch.Tensor) -> torch.Tensor:
        """Return the index (B,) of the table entry nearest to each level."""
        table = self.sigmas.to(level)
        return (level[None] - table[:, None]).abs().argmin(dim=0)

    def timestep_at(self, level: torch.Tensor) -> torch.Tensor:
        """Return the training timestep (B,), interpolated between entries and clamped to the table's ends."""
        rising = self._rising  # on the CPU, because not every device has float64
        value = self.parameterization.rising(level.cpu().double())
        value = value.clamp(rising[0], rising[-1])
        right = torch.searchsorted(rising, value).clamp(1, len(rising) - 1)
        low, high = rising[right - 1], rising[right]
        return (right - 1 + (value - low) / (high - low)).to(level)

    def _snap(self, level: torch.Tensor) -> torch.Tensor:
        return self.sigmas.to(level)[self.sigma_to_idx(level)]

    def _snap_noise(self, c_noise: torch.Tensor) -> torch.Tensor:
        return self.sigma_to_idx(c_noise) if self.quantize_c_noise else c_noise


@dataclass(frozen=True)
class BoundDenoiser:
    """A denoiser bound to a network, for a schedule of the given parameterization.

    Called as denoiser(x, level, cond, idx=None, **network_inputs). If the network was trained on another
    parameterization, it is evaluated at the level of equal signal-to-noise ratio, with its input scaled to match.
    That level is not snapped to a table, nor is a VP level without a timestep.
    """

    denoiser: Denoiser
    network: Callable
    parameterization: Parameterization

    def __call__(self, x: torch.Tensor, level: torch.Tensor, cond: Mapping, idx: torch.Tensor | None = None,
                 **network_inputs) -> torch.Tensor:
        same = self.parameterization == self.denoiser.parameterization
        if same and (idx is not None or self.parameterization != VP):
            return self.denoiser(self.network, x, level, cond, idx=idx, **network_inputs)
        x, level = (x, level) if same else self._translate(x, level)
        return self.denoiser.denoise(self.network, x, level, cond, **network_inputs)

    def timestep_at(self, ratio: float) -> float | None:
        """Return the network's training timestep at this sigma / alpha; None without a table of timesteps."""
        return self.denoiser.timestep_at_ratio(ratio)

    def _translate(self, x: torch.Tensor, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = self.parameterization.alpha_sigma(level)
        asked = self.denoiser.level_of(alpha, sigma)  # at zero SNR, a VE network's highest level
        scale = torch.hypot(*self.denoiser.parameterization.alpha_sigma(asked)) / torch.hypot(alpha, sigma)
        return x * append_dims(scale, x.ndim), asked
