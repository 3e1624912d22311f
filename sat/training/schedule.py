"""The learning rate schedule of a run, and the course of a run as its settings give it."""
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """The number of steps of a run, its learning rate over them, and the decay of the average of its weights."""

    steps: int
    peak: float
    ema_decay: float
    warmup: int = 0
    decay: str = "cosine"
    final_share: float = 0.0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the step that follows `step` steps."""
        return learning_rate(step, self.steps, self.peak, self.warmup, self.decay, self.final_share)


def learning_rate(step: int, total: int, peak: float, warmup: int = 0, decay: str = "cosine",
                  final_share: float = 0.0) -> float:
    """Return the rate of a step: linear warm-up, then constant or half a cosine down to `final_share` of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress)))
