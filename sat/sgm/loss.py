"""The training objective: the weighted error of the denoised estimate at a drawn noise level."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from common.errors import ConfigError
from common.kinds import AboveZero, Count, NotNegative, Part
from common.tensors import append_dims, at_least_float32, draw_noise
from configuration.targets import instantiate_from_config
from sgm.parameterization import VE, VP, Parameterization


@dataclass(frozen=True)
class LossTerms:
    """The loss of each row, its weight, level and timestep, each (B,); `timesteps` is None without a table."""

    loss: torch.Tensor
    weight: torch.Tensor
    level: torch.Tensor
    timesteps: torch.Tensor | None


class StandardDiffusionLoss:
    """The loss w(sigma) * |denoised - x0|^2 on x0 + sigma * noise (Karras et al. 2022, eq. 2).

    w is the denoiser's weighting. `type` is l2 or l1. `offset_noise_level` scales one more normal draw per row, which
    is added to the noise of all its elements. `batch2model_keys` are entries of the batch that are passed to the
    network as inputs, if the batch has them.
    """

    parameterization: Parameterization = VE

    def __init__(self, sigma_sampler_config: Part, type: Literal["l2", "l1"] = "l2",
                 offset_noise_level: NotNegative = 0.0, batch2model_keys: str | Sequence[str] = ("ofs",)):
        self.sigma_sampler = instantiate_from_config(sigma_sampler_config)
        given = getattr(self.sigma_sampler, "parameterization", VE)
        if given != self.parameterization:
            raise ConfigError(f"loss_fn_config: {self.__class__.__name__} needs {self.parameterization} levels, but "
                              f"its sigma sampler draws {given} levels; use VideoDiffusionLoss with "
                              "ZeroSNRDDPMDiscretization, StandardDiffusionLoss with the others")
        self.type = type
        self.offset_noise_level = offset_noise_level
        self.batch2model_keys = (batch2model_keys,) if isinstance(batch2model_keys, str) else tuple(batch2model_keys)

    def __call__(self, network: Callable, denoiser: Any, conditioner: Callable, input: torch.Tensor,
                 batch: Mapping, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the loss (B,) of latents `input` (B, T, C, H, W); see `terms`."""
        return self.terms(network, denoiser, conditioner, input, batch, generator).loss

    def terms(self, network: Callable, denoiser: Any, conditioner: Callable, input: torch.Tensor,
              batch: Mapping, generator: torch.Generator | None = None) -> LossTerms:
        """Return the loss of each row, with the levels and timesteps drawn for it.

        `batch` goes to the conditioner; its `concat_images`, if present, is the image latent that the network is given
        beside x. Its `counted` (B, T), if present, is 1 for the latent frames that count in the loss, of which each row
        has the mean over its own. Raises ConfigError for a denoiser of another parameterization.
        """
        if denoiser.parameterization != self.parameterization:
            raise ConfigError(f"loss_fn_config: {self.__class__.__name__} needs a denoiser on {self.parameterization} "
                              f"levels, but this one works on {denoiser.parameterization}; change one of the two")
        cond = dict(conditioner(batch))
        if "concat_images" in batch:
            cond["concat"] = batch["concat_images"]
        inputs = {k: batch[k] for k in self.batch2model_keys if k in batch}
        level, timesteps = self.sigma_sampler(len(input), return_idx=True, generator=generator)
        level = level.to(input.device)
        timesteps = None if timesteps is None else timesteps.to(input.device)
        x = at_least_float32(input)
        noised = self._add_noise(x, level, generator)
        denoised = denoiser(network, noised, level, cond, idx=timesteps, **inputs)
        weight = self.weight(denoiser, level)
        return LossTerms(self._error(denoised.to(x.dtype), x, weight, batch.get("counted")), weight, level, timesteps)

    def weight(self, denoiser: Any, level: torch.Tensor) -> torch.Tensor:
        """Return the weight (B,) of the error in the denoised estimate."""
        return denoiser.w(level)

    def _add_noise(self, x: torch.Tensor, level: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        noise = draw_noise(x, generator)
        if self.offset_noise_level > 0:
            noise = noise + append_dims(self.offset_noise_level * draw_noise(level, generator), x.ndim)
        alpha, sigma = (append_dims(v, x.ndim) for v in self.parameterization.alpha_sigma(level))
        return alpha * x + sigma * noise

    def _error(self, denoised: torch.Tensor, target: torch.Tensor, weight: torch.Tensor,
               counted: torch.Tensor | None = None) -> torch.Tensor:
        error = (denoised - target).abs() if self.type == "l1" else (denoised - target) ** 2
        if counted is None:
            return weight * error.flatten(1).mean(1)
        counted = counted.to(error)
        return weight * (error.flatten(2).mean(2) * counted).sum(1) / counted.sum(1)


class VideoDiffusionLoss(StandardDiffusionLoss):
    """The v-objective in terms of the denoised estimate: weight 1 / (1 - alphas_cumprod) on the error in x0.

    See Salimans and Ho 2022, section 4. `min_snr_value` is the upper limit of the weight (Hang et al. 2023).
    """

    parameterization = VP

    def __init__(self, sigma_sampler_config: Part, type: Literal["l2", "l1"] = "l2",
                 offset_noise_level: NotNegative = 0.0, batch2model_keys: str | Sequence[str] = ("ofs",),
                 min_snr_value: AboveZero | None = None, fixed_frames: Count = 0):
        super().__init__(sigma_sampler_config, type, offset_noise_level, batch2model_keys)
        if fixed_frames:
            raise ValueError(f"fixed_frames is {fixed_frames}: training with noise-free frames is not supported; "
                             "set it to 0")
        self.min_snr_value = min_snr_value

    def weight(self, denoiser: Any, level: torch.Tensor) -> torch.Tensor:
        weight = 1 / (1 - level**2)
        return weight if self.min_snr_value is None else weight.clamp(max=self.min_snr_value)
