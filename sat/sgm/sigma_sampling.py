"""Random draws of the noise levels for training."""
import torch

from common.errors import ConfigError
from common.kinds import Count, NotNegative, Part, Size
from configuration.targets import instantiate_from_config


class EDMSampling:
    """A draw of sigma with log sigma ~ N(p_mean, p_std) (Karras et al. 2022, table 1)."""

    def __init__(self, p_mean: float = -1.2, p_std: NotNegative = 1.2):
        self.p_mean, self.p_std = p_mean, p_std

    def __call__(self, n_samples: int, rand: torch.Tensor | None = None, return_idx: bool = False,
                 generator: torch.Generator | None = None):
        """Return sigmas (n,), with `return_idx` also None in place of timesteps. `rand` replaces the normal draw."""
        rand = torch.randn((n_samples,), generator=generator, device=_device(generator)) if rand is None else rand
        sigma = (self.p_mean + self.p_std * rand).exp()
        return (sigma, None) if return_idx else sigma


class DiscreteSampling:
    """A uniform draw of timesteps from a table of `num_idx` levels.

    With `uniform_sampling` the table is cut into intervals and each data-parallel rank draws from its own, which
    lowers the variance of the loss across ranks (explicit uniform sampling, CogVideoX, Yang et al. 2024, section 3.3).
    There are `group_num` intervals if that divides the number of ranks, else one for each rank.
    """

    def __init__(self, discretization_config: Part, num_idx: Size, do_append_zero: bool = False, flip: bool = True,
                 uniform_sampling: bool = False, group_num: Count = 0):
        discretization = instantiate_from_config(discretization_config)
        self.parameterization = discretization.parameterization
        self.sigmas = discretization(num_idx, do_append_zero=do_append_zero, flip=flip)
        self.num_idx = num_idx
        self.uniform_sampling, self.group_num = uniform_sampling, group_num

    def interval(self, rank: int, size: int) -> tuple[int, int]:
        """Return the interval [low, high) of timesteps that rank `rank` of `size` draws from."""
        if not self.uniform_sampling or size == 1:
            return 0, self.num_idx
        grouped = self.group_num > 0 and size % self.group_num == 0
        groups = self.group_num if grouped else size
        group = rank * groups // size
        return self.num_idx * group // groups, self.num_idx * (group + 1) // groups

    def __call__(self, n_samples: int, rand: torch.Tensor | None = None, return_idx: bool = False,
                 generator: torch.Generator | None = None):
        """Return levels (n,), with `return_idx` also timesteps (n,) int64. `rand` replaces the drawn timesteps."""
        if rand is None:
            low, high = self.interval(*_data_rank_and_size()) if self.uniform_sampling else (0, self.num_idx)
            rand = torch.randint(low, high, (n_samples,), generator=generator, device=_device(generator)).cpu()
        return (self.sigmas[rand], rand) if return_idx else self.sigmas[rand]


class PartialDiscreteSampling(DiscreteSampling):
    """A uniform draw of timesteps from the least noisy `partial_num_idx` of a table of `total_num_idx` levels."""

    def __init__(self, discretization_config: Part, total_num_idx: Size, partial_num_idx: Size,
                 do_append_zero: bool = False, flip: bool = True):
        if partial_num_idx > total_num_idx:
            raise ConfigError(f"sigma_sampler_config.params.partial_num_idx: {partial_num_idx} is not between 1 and "
                              f"total_num_idx {total_num_idx}")
        super().__init__(discretization_config, total_num_idx, do_append_zero, flip)
        self.num_idx = partial_num_idx


def _data_rank_and_size() -> tuple[int, int]:
    from parallel.groups import data_rank_and_size

    return data_rank_and_size()


def _device(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device
