"""Conditioning: what the network is given beside the latent, in one object with its unconditional half."""
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.errors import ConfigError

logger = logging.getLogger(__name__)
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conditioning:
    """The network's inputs beside the latent, one row for each video: `cond`, and `uncond` for guidance.

    Both halves map the same names to tensors: `crossattn` (B, N, D), `concat` (B, T, C, H, W), `vector` (B, D). Without
    `uncond` nothing is guided. Raises ConfigError for halves that differ in names or shapes.
    """

    cond: Inputs
    uncond: Inputs | None = None

    def __post_init__(self):
        _check_half(self.cond)
        if self.uncond is None:
            return
        _check_half(self.uncond)
        if self.cond.keys() != self.uncond.keys():
            raise ConfigError(f"conditional inputs {sorted(self.cond)} and unconditional ones {sorted(self.uncond)} "
                              "differ; give both the same")
        for name, given in self.cond.items():
            if given.shape != self.uncond[name].shape:
                raise ConfigError(f"conditioning {name} is {_shape(given)}, its unconditional half "
                                  f"{_shape(self.uncond[name])}; make them of one shape")

    @classmethod
    def of(cls, cond: "Conditioning | Inputs", uncond: Inputs | None = None) -> "Conditioning":
        """Return the conditioning of two mappings; one that is a conditioning already has both halves itself."""
        if not isinstance(cond, Conditioning):
            return cls(cond, uncond)
        if uncond is not None:
            raise ConfigError("uc is given beside a conditioning, which has its unconditional half; leave uc out")
        return cond

    @classmethod
    def stacked(cls, rows: Sequence["Conditioning"]) -> "Conditioning":
        """Return the conditioning of a batch from those of its videos, in order."""
        def joined(halves: Iterable[Inputs]) -> dict[str, Tensor]:
            first, *others = halves
            return {name: torch.cat([given, *(other[name] for other in others)]) for name, given in first.items()}

        unconditional = [row.uncond for row in rows if row.uncond is not None]
        if unconditional and len(unconditional) < len(rows):
            raise ConfigError("some videos of the batch have an unconditional half and others have none; give it to "
                              "all or none")
        return cls(joined(row.cond for row in rows), joined(unconditional) if unconditional else None)

    @property
    def rows(self) -> int:
        """The number of videos. Raises ConfigError if the inputs differ in it."""
        counts = {name: len(given) for name, given in self.cond.items()}
        if len(set(counts.values())) != 1:
            raise ConfigError(f"the conditioning's rows are {counts}; every input has one row for each video")
        return next(iter(counts.values()))

    def shared(self, **inputs: Tensor) -> "Conditioning":
        """Return this conditioning with more inputs, such as an image's `concat`, the same in both halves."""
        return Conditioning({**self.cond, **inputs}, None if self.uncond is None else {**self.uncond, **inputs})

    def sharing(self, other: "Conditioning | None") -> "Conditioning":
        """Return this conditioning with another one's unconditional half, if it equals its own, to keep it once."""
        if self.uncond is None or other is None or other.uncond is None or self.uncond.keys() != other.uncond.keys():
            return self
        equal = all(torch.equal(given, other.uncond[name]) for name, given in self.uncond.items())
        return replace(self, uncond=other.uncond) if equal else self

    def unguided(self) -> "Conditioning":
        """Return this conditioning without its unconditional half."""
        return replace(self, uncond=None)

    def to(self, *place, **kind) -> "Conditioning":
        """Return this conditioning with its tensors on a device, in a dtype, or both, as `torch.Tensor.to` takes them.
        """
        return self.each(lambda given: given.to(*place, **kind))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """Return this conditioning with every tensor changed."""
        def changed(half: Inputs) -> Inputs:
            return {name: change(given) for name, given in half.items()}

        return Conditioning(changed(self.cond), None if self.uncond is None else changed(self.uncond))

    def half(self, unconditional: bool, zeroed: Sequence[str] = ()) -> Inputs:
        """Return the inputs of a branch, those that are `zeroed` as zeros. Raises ConfigError if it has no such half.
        """
        half = self.uncond if unconditional else self.cond
        if half is None:
            raise ConfigError("the guider evaluates an unconditional branch, and the conditioning has no unconditional "
                              "half; give it one")
        return half if not zeroed else {name: torch.zeros_like(given) if name in zeroed else given
                                        for name, given in half.items()}

    def without_contrast(self) -> int:
        """Return how many rows have an unconditional half equal to the conditional one, which guidance cannot move."""
        if not self.uncond:
            return 0
        equal = [(given == self.uncond[name]).flatten(1).all(dim=1).cpu() for name, given in self.cond.items()]
        return int(torch.stack(equal).all(dim=0).sum())

    def warn_without_contrast(self) -> None:
        """Log a warning if guidance would change nothing."""
        count = self.without_contrast()
        if count:
            logger.warning("guidance has no effect on %d of %d video(s): their unconditional half equals the "
                           "conditional one; give another negative prompt, or none", count, self.rows)


def _check_half(half: Inputs) -> None:
    if not isinstance(half, Mapping):
        raise ConfigError(f"a conditioning is a mapping of names to tensors, not {type(half).__name__}; "
                          "such as {'crossattn': tensor}")
    for name, given in half.items():
        if not isinstance(given, Tensor):
            raise ConfigError(f"conditioning {name} is {type(given).__name__}; it must be a tensor with a row for each "
                              "video")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
