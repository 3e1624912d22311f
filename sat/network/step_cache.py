"""Step caching: while little has changed, what the transformer's layers added in an earlier forward pass is reused.

Lossy, and off unless `model.step_cache_config` is set. Shapes: B batch, N text tokens, S all tokens, D hidden size.

Each row of a batch is decided on its own, separately for each branch (conditional, unconditional, weakened): a video
does not depend on the others in its batch. Rows whose layers must run go through them in one batch.
"""
import math
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import MinLen
from torch import Tensor

from common.kinds import Count, NotNegative, Positive
from network.context import VideoContext


@dataclass(frozen=True)
class RowState:
    """The state of one row in one branch.

    signal: what changes are measured from. residual: (S - N, D), what the layers added when they last ran. change: the
    change since then. asked, skipped, in_a_row: how often the layers were requested, skipped, and skipped since then.
    """

    signal: Tensor | None = None
    residual: Tensor | None = None
    change: float = math.inf
    asked: int = 0
    skipped: int = 0
    in_a_row: int = 0


@dataclass(frozen=True)
class CacheState:
    """The state of one sampling run: for each row of the batch, a RowState per branch, keyed by its index.

    It is never changed: `runner` serves one forward pass, and `after` returns the state that follows.
    """

    cache: "StepCache"
    rows: Sequence[Mapping[int, RowState]]
    first: float = 0.0  # index of the run's first step, above 0 if it starts from a clip

    def runner(self, branches: Sequence[int], index: float, num_steps: int) -> "CachedLayers":
        """Return the layer runner of one forward pass over these branches (indices), in step `index` of `num_steps`.

        Its batch holds all rows once per branch.
        """
        states = [row.get(branch, RowState()) for branch in branches for row in self.rows]
        kept = index - self.first < self.cache.first_steps or index >= num_steps - self.cache.last_steps
        return CachedLayers(self.cache, branches, kept, states)

    def after(self, runner: "CachedLayers") -> "CacheState":
        """Return the state after the forward pass of a `runner` of this state."""
        count = len(self.rows)
        return replace(self, rows=[{**row, **dict(zip(runner.branches, runner.states[i::count], strict=True))}
                                   for i, row in enumerate(self.rows)])

    def joined(self, others: Sequence["CacheState"]) -> "CacheState":
        """Return the state of a batch of this state's rows and those of others."""
        return replace(self, rows=[row for state in (self, *others) for row in state.rows])

    @property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """The numbers of times that each row's layers were skipped so far, and asked for, in this process."""
        return tuple((sum(m.skipped for m in row.values()), sum(m.asked for m in row.values())) for row in self.rows)


@dataclass
class CachedLayers:
    """Layer runner of one forward pass, which skips the layers where a step cache allows it.

    The denoiser and the wrapper that stand between a sampler and the network return the network's output alone. So the
    new states come back in this object: a call replaces `states`, one for each row of its batch.
    """

    cache: "StepCache"
    branches: Sequence[int]
    kept: bool  # no row is skipped
    states: Sequence[RowState]

    def __call__(self, network: Any, x: Tensor, context: VideoContext) -> Tensor:
        tokens, self.states = self.cache.layers(self.states, self.kept, network, x, context)
        return tokens


@dataclass(kw_only=True)
class StepCache:
    """Base of the step caches: layers run again once the change of a signal reaches `threshold`; 0 means always.

    They run in any case in the `first_steps` and `last_steps` of a run, and after `max_skips` skips in a row (None: no
    limit).
    """

    least_layers: ClassVar[int] = 1  # of a network of which some can be skipped

    threshold: NotNegative
    max_skips: Positive | None = None
    first_steps: Count = 1
    last_steps: Count = 1

    def begin(self, rows: int, first: float = 0.0) -> CacheState:
        """Return the empty state of a run of that many rows, whose first step has the index `first`."""
        return CacheState(self, [{} for _ in range(rows)], first)

    @abstractmethod
    def signal(self, network, x: Tensor, context: VideoContext) -> tuple[Tensor, Tensor, int]:
        """Return the signal (B, ...) of tokens x (B, S, D), x after the layers it needed, and their number."""
        raise NotImplementedError

    @abstractmethod
    def compared(self, row: RowState, signal: Tensor) -> RowState:
        """Return the row's state with the change that its new signal brings."""
        raise NotImplementedError

    def run(self, network, x: Tensor, context: VideoContext, done: int) -> Tensor:
        """Return the video tokens after all layers, of which `done` have run already."""
        return network.transformer.run_layers(x, context, done)

    def layers(self, rows: Sequence[RowState], kept: bool, network, x: Tensor, context: VideoContext
               ) -> tuple[Tensor, list[RowState]]:
        """Return video tokens (B, S - N, D) for tokens x (B, S, D), and the new states of the rows.

        The layers run for those rows whose state requires it.
        """
        signals, x, done = self.signal(network, x, context)
        video = x[:, context.text_length:]
        decided = self.decided if "torch._dynamo" not in sys.modules else torch.compiler.disable(self.decided)
        states = [decided(row, signal, kept) for row, signal in zip(rows, signals, strict=True)]
        chosen = [i for i, state in enumerate(states) if state.residual is None]
        if not chosen:
            return video + torch.stack([_residual(state) for state in states]), states
        every = len(chosen) == len(states)
        tokens, own = (x, context) if every else (x[chosen], context.rows(chosen))
        computed = self.run(network, tokens, own, done)
        for i, result in zip(chosen, computed, strict=True):
            states[i] = replace(states[i], residual=result - video[i])
        if every:
            return computed, states
        results = dict(zip(chosen, computed, strict=True))
        whole = [results[i] if i in results else video[i] + _residual(state) for i, state in enumerate(states)]
        return torch.stack(whole), states

    def decided(self, row: RowState, signal: Tensor, kept: bool) -> RowState:
        """Return the row's state after a request; without a residual its layers must run.

        Later changes are then measured from this signal.
        """
        row = replace(row, asked=row.asked + 1)
        if row.residual is not None:
            row = self.compared(row, signal)
            full = row.in_a_row == self.max_skips
            if not kept and not full and row.change < self.threshold:  # false for NaN
                return replace(row, skipped=row.skipped + 1, in_a_row=row.in_a_row + 1)
        return replace(row, signal=signal, change=0.0, residual=None, in_a_row=0)


@dataclass(kw_only=True)
class TeaCache(StepCache):
    """Step cache with the first layer's modulated input as its signal (Liu et al. 2024, TeaCache, eq. 4 to 6).

    The signal's relative L1 changes between forward passes add up, each rescaled by `polynomial` (highest power first,
    which the paper fits to a model; the default leaves them unchanged).
    """

    polynomial: Annotated[Sequence[float], MinLen(1)] = (1.0, 0.0)

    def signal(self, network, x, context):
        adaln = network.mixins["adaln_layer"]
        parts = adaln.parts(0, context)
        around_attention, _ = adaln.modulations(parts, context)
        video = x[:, context.text_length:]
        return around_attention.of_video().of_normed(parts.layer.input_layernorm, video), x, 0

    def compared(self, row, signal):
        step = polynomial_at(self.polynomial, relative_change(signal, row.signal))
        return replace(row, signal=signal, change=row.change + max(step, 0.0))


@dataclass(kw_only=True)
class FirstBlockCache(StepCache):
    """Step cache with what the first layer adds as its signal; that layer therefore always runs.

    The change is the signal's relative L1 change since the other layers last ran.
    """

    least_layers = 2

    def signal(self, network, x, context):
        after = network.transformer.run_layers(x, context, 0, 1)
        videos = (tokens[:, context.text_length - x.shape[1]:] for tokens in (after, x))
        return torch.sub(*videos), after, 1

    def compared(self, row, signal):
        return replace(row, change=relative_change(signal, row.signal))


def leave_to_python() -> None:
    """Make torch.compile leave the decisions, which depend on values, to Python; the layers themselves are compiled.

    As a function rather than as decorators, because torch takes a second to import its compiler.
    """
    for function in (CachedLayers.__call__, StepCache.layers):
        torch.compiler.disable(function, recursive=False)


def _residual(state: RowState) -> Tensor:
    assert state.residual is not None
    return state.residual


def relative_change(now: Tensor, before: Tensor) -> float:
    """Return the mean absolute difference, relative to the mean absolute value before."""
    return float((now - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32))


def polynomial_at(coefficients: Sequence[float], x: float) -> float:
    """Return the value at x of a polynomial, highest power first."""
    value = 0.0
    for factor in coefficients:  # Horner's scheme
        value = value * x + factor
    return value
