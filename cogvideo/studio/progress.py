"""The course of a run as the page shows it: step, time left, the estimate as it forms, and the guidance curve."""
import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import torch
from PIL import Image

from diffusion_video import DiffusionEngine
from media.videos import to_pixels
from sgm.sampling import StepInfo

PAUSE, SHARE = 0.7, 0.1  # seconds between two pictures at least, and the share of the time that they may take
WIDTH, HEIGHT = 320, 90  # of the curve


@dataclass
class Progress:
    """The course of a run of `videos` videos. `watch` notes a step; the rest is for the page, in another thread."""

    videos: int
    engine: DiffusionEngine | None = None
    made: int = 0
    index: int = 0
    steps: int = 0
    scales: list[float] = field(default_factory=list)
    picture: str = ""
    begun: float = field(default_factory=time.perf_counter)
    _first: int = 0  # step of the video that is made: not 0 where it starts from a clip
    _last: int = 0
    _next: float = 0.0

    def watch(self, step: StepInfo) -> None:
        """Note a step, and decode the middle of its estimate now and then, unless weights would have to move for it.

        That of the first step shows nothing yet: guidance leads it far out of the range of colours.
        """
        if not self.scales or step.index < self._last:
            self.scales, self._first = [], step.index
            self.begun = self.begun if self.made else time.perf_counter()  # the first video's loading is over
        self.index, self.steps, self._last = step.index + 1 - self._first, step.num_steps - self._first, step.index
        self.scales = [*self.scales, float(torch.as_tensor(step.scale).float().mean())]
        begun = time.perf_counter()
        if self.engine is not None and self.engine.offload is None and step.index and begun >= self._next:
            self.picture = estimate(self.engine, step)
            taken = time.perf_counter() - begun
            self._next = time.perf_counter() + max(PAUSE, taken / SHARE)

    def line(self) -> str:
        """Return where the run is, in words."""
        if not self.steps:
            return "loading the model"
        done = self.made * self.steps + (self.index if self.made < self.videos else 0)
        left = (time.perf_counter() - self.begun) / max(done, 1) * (self.videos * self.steps - done)
        video = f"video {min(self.made + 1, self.videos)} of {self.videos}, " if self.videos > 1 else ""
        return f"{video}step {self.index} of {self.steps}, about {left:.0f} s left"


@torch.no_grad()
def estimate(engine: DiffusionEngine, step: StepInfo) -> str:
    """Return a picture of the middle of a step's denoised estimate, as a data address."""
    latents = step.denoised[:1]
    middle = latents.shape[1] // 2
    frames = engine.decode_first_stage(latents[:, middle:middle + 1].transpose(1, 2))
    written = io.BytesIO()
    Image.fromarray(to_pixels(frames[0])[0]).save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def picture(address: str) -> str:
    """Return the HTML of the estimate."""
    return (f'<figure class="estimate"><img src="{escape(address)}" alt="estimate of a middle frame">'
            "<figcaption>estimate of a middle frame</figcaption></figure>" if address else "")


def curve(scales: Sequence[float], steps: int) -> str:
    """Return the guidance scale of each step as a small drawing."""
    if len(scales) < 2:
        return ""
    low, high = min(0.0, *scales), max(1.0, *scales)
    points = " ".join(f"{i / max(steps - 1, 1) * WIDTH:.1f},{HEIGHT * (1 - (scale - low) / (high - low)):.1f}"
                      for i, scale in enumerate(scales))
    return (f'<figure class="curve"><svg viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" role="img" '
            f'aria-label="guidance scale by step"><polyline points="{points}"/></svg>'
            f"<figcaption>guidance scale, step 1 to {steps}: now {scales[-1]:.2f}, "
            f"{low:g} to {high:.3g}</figcaption></figure>")
