"""The learning rate schedule of a run."""
import math


def learning_rate(step: int, total: int, peak: float, warmup: int = 0, decay: str = "cosine",
                  final_share: float = 0.0) -> float:
    """Return the rate of a step: linear warm-up, then constant or half a cosine down to `final_share` of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress)))
