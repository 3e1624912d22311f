"""Step caching: what the transformer's layers added at an earlier evaluation is added again while little has changed.

Lossy, and off unless `model.step_cache_config` asks for it. Shapes: B batch, N text tokens, S all tokens, D hidden
size.

Each row of a batch decides for itself, under each of its conditionings (conditional, unconditional, a weaker network, a
perturbed one) apart: a video does not depend on its neighbours. Rows that need their layers run through them together.
"""
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from common.errors import ConfigError
from network.context import VideoContext

Reuse = Callable[..., Tensor]


@dataclass
class RowMemory:
    """What one row under one conditioning holds: the signal, (S - N, D), that changes are measured from; what the
    layers added when they last ran, (S - N, D); the change since; how often it was asked for, and how often skipped."""

    signal: Tensor | None = None
    residual: Tensor | None = None
    change: float = math.inf
    asked: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class RunMemory:
    """The memories of one sampling run: for each row of the batch, one for each of a guider's passes by number."""

    cache: "StepCache"
    rows: Sequence[Mapping[int, RowMemory]]

    def row(self, i: int) -> "RunMemory":
        """Of row i alone: not a copy."""
        return RunMemory(self.cache, self.rows[i:i + 1])

    def of(self, passes: Sequence[int], last: bool) -> Reuse:
        """For a call of the network with the batch once for each of these passes; the `last` step computes all."""
        return partial(self.cache.layers, [row[number] for number in passes for row in self.rows], last)

    @property
    def skipped(self) -> tuple[float, ...]:
        """The share of its passes that each row skipped so far."""
        return tuple(sum(m.skipped for m in row.values()) / max(1, sum(m.asked for m in row.values()))
                     for row in self.rows)


@dataclass(kw_only=True)
class StepCache:
    """Base: the layers run again where the change of a signal is no longer below `threshold`; 0 means always.

    Raises ConfigError for a threshold that is not a number from 0.
    """

    threshold: float

    def __post_init__(self):
        _check_numbers("threshold", [self.threshold])
        if self.threshold < 0:
            raise ConfigError(f"step_cache_config.params.threshold: {self.threshold} is a change, 0 or more")

    def begin(self, rows: int) -> RunMemory:
        """Empty memories for a run of so many rows."""
        return RunMemory(self, [defaultdict(RowMemory) for _ in range(rows)])

    def signal(self, network, x: Tensor, context: VideoContext) -> tuple[Tensor, Tensor, int]:
        """From tokens x (B, S, D): the signal (B, S - N, D), x after the layers that were run for it, their number."""
        raise NotImplementedError

    def change(self, row: RowMemory, signal: Tensor) -> float:
        """The row's change with this signal (S - N, D)."""
        raise NotImplementedError

    def layers(self, rows: Sequence[RowMemory], last: bool, network, x: Tensor, context: VideoContext) -> Tensor:
        """In place of running all layers of a DiffusionTransformer on x (B, S, D): the video tokens (B, S - N, D)."""
        signals, x, done = self.signal(network, x, context)
        video = x[:, -signals.shape[1]:]
        chosen = [i for i, row in enumerate(rows) if self._runs(row, signals[i], last)]
        every = len(chosen) == len(rows)
        if not chosen:
            return video + torch.stack([row.residual for row in rows])
        computed = network.transformer.run_layers(x if every else x[chosen],
                                                  context if every else context.rows(chosen), done)
        for i, result in zip(chosen, computed, strict=True):
            rows[i].residual = result - video[i]
        if every:
            return computed
        results = dict(zip(chosen, computed, strict=True))
        return torch.stack([results[i] if i in results else video[i] + row.residual for i, row in enumerate(rows)])

    def _runs(self, row: RowMemory, signal: Tensor, last: bool) -> bool:
        """Whether the row's layers run, counted; from then on its changes are measured anew."""
        row.asked += 1
        if row.residual is not None:
            row.change = self.change(row, signal)
            if not last and row.change < self.threshold:  # not so for a number that is none
                row.skipped += 1
                return False
        row.signal, row.change = signal, 0.0
        return True


@dataclass(kw_only=True)
class TeaCache(StepCache):
    """By the first layer's input after modulation by the time embedding (Liu et al. 2024, TeaCache, eq. 4 to 6).

    Its relative L1 changes from evaluation to evaluation add up, each rescaled by `polynomial` (highest power first,
    as the paper fits it to a model; unchanged unless given).
    """

    polynomial: Sequence[float] = (1.0, 0.0)

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.polynomial, str) or not isinstance(self.polynomial, Sequence) or not self.polynomial:
            raise ConfigError(f"step_cache_config.params.polynomial: {self.polynomial!r} must be numbers, as [1, 0]")
        _check_numbers("polynomial", self.polynomial)

    def signal(self, network, x, context):
        adaln = network.mixins["adaln_layer"]
        parts = adaln.parts(0, context)
        around_attention, _ = adaln.modulations(parts, context)
        normed = parts.layer.input_layernorm(x[:, context.text_length:])
        return around_attention.of_video().modulate(normed), x, 0

    def change(self, row, signal):
        step = 0.0
        for factor in self.polynomial:  # Horner's scheme
            step = step * relative_change(signal, row.signal) + factor
        row.signal = signal
        return row.change + max(step, 0.0)


@dataclass(kw_only=True)
class FirstBlockCache(StepCache):
    """By what the first layer adds, which therefore always runs: its relative L1 change since the others last ran."""

    def signal(self, network, x, context):
        after = network.transformer.run_layers(x, context, 0, 1)
        videos = (tokens[:, context.text_length - x.shape[1]:] for tokens in (after, x))
        return torch.sub(*videos), after, 1

    def change(self, row, signal):
        return relative_change(signal, row.signal)


def relative_change(now: Tensor, before: Tensor) -> float:
    """Mean absolute difference over the mean absolute value before."""
    return float((now - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32))


def _check_numbers(name: str, values: Sequence) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"step_cache_config.params.{name}: {value!r} is not a finite number")
