"""Modulation of normalised tokens by the time embedding, apart for text and video (expert adaptive LayerNorm).

Shapes: B batch, S tokens [text, video], D hidden size.
"""
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from common.tensors import recorded

Terms = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Modulation:
    """Shift, scale and gate of one residual branch, (1 or B, 1, D) each.

    The branch's normalised input x becomes x·scale + shift, where `scale` already includes the 1; its output is
    multiplied by `gate`.
    """
    shift: torch.Tensor
    scale: torch.Tensor
    gate: torch.Tensor


@dataclass(frozen=True)
class Experts:
    """The modulations of the text tokens and of the video tokens of one sequence."""
    text: Modulation
    video: Modulation
    text_length: int

    def of_normed(self, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return norm(x)·scale + shift for tokens x (B, S, D)."""
        rows_are_equal = len(self.video.scale) == 1
        if rows_are_equal and isinstance(norm, ModulatedNorm) and not recorded():
            return norm(x, self)
        normed = norm(x)
        if torch.compiler.is_compiling():
            return normed * self._each("scale", x) + self._each("shift", x)
        text, video = self.parts(normed)
        return joint_addcmul((self.text.shift, text, self.text.scale), (self.video.shift, video, self.video.scale),
                             normed)

    def add_gated(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """Return x + branch·gate, written over `branch` where no gradient is recorded."""
        if torch.compiler.is_compiling():
            return x + branch * self._each("gate", x)
        (text, video), (text_branch, video_branch) = self.parts(x), self.parts(branch)
        return joint_addcmul((text, text_branch, self.text.gate), (video, video_branch, self.video.gate), branch)

    def _each(self, term: str, x: torch.Tensor) -> torch.Tensor:
        """Return a term of every token of x: one expression, which the compiler joins with what is before and after."""
        text, video = getattr(self.text, term), getattr(self.video, term)
        if not self.text_length:
            return video
        return torch.where(torch.arange(x.shape[1], device=x.device)[:, None] < self.text_length, text, video)

    def of_video(self) -> "Experts":
        """Return the same modulations for a sequence of video tokens alone."""
        return replace(self, text_length=0)

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the text tokens and the video tokens of x (B, S, D)."""
        # The gradient of one split is one concatenation; that of two slices is two full-size zero tensors and a sum.
        return x.split((self.text_length, x.shape[1] - self.text_length), dim=1)


class ModulatedNorm(nn.LayerNorm):
    """A LayerNorm that modulates what it normalises in the same pass, for which all rows have the same modulation."""

    def forward(self, x: torch.Tensor, experts: Experts | None = None) -> torch.Tensor:
        """Return the LayerNorm of tokens x (B, S, D), modulated if there are experts."""
        if experts is None:
            return super().forward(x)
        normed = self._modulated(x, experts.video)
        if experts.text_length:  # few of the tokens, so that they are normalised twice rather than all of them copied
            text, _ = experts.parts(normed)
            text.copy_(self._modulated(experts.parts(x)[0], experts.text))
        return normed

    def _modulated(self, x: torch.Tensor, by: Modulation) -> torch.Tensor:
        """Return the LayerNorm by the weight w·scale and the bias b·scale + shift."""
        weight, bias = by.scale.flatten(), by.shift.flatten()
        if self.elementwise_affine:
            weight, bias = weight * self.weight, torch.addcmul(bias, weight, self.bias)
        # Half-precision tokens may have a float32 weight on a CPU, whose kernel is faster then.
        dtype = torch.promote_types(x.dtype, torch.float32) if x.device.type == "cpu" else x.dtype
        return F.layer_norm(x, self.normalized_shape, weight.to(dtype), bias.to(dtype), self.eps)


def joint_addcmul(text: Terms, video: Terms, into: torch.Tensor | None = None) -> torch.Tensor:
    """Return a + b·c of the text and of the video terms (a, b, c), joined along the tokens (axis 1).

    Where no gradient is recorded, the result is written `into` that tensor if its dtype fits.
    """
    if recorded():
        return torch.cat((torch.addcmul(*text), torch.addcmul(*video)), dim=1)
    # Both halves are computed in their place in the result, which saves the copy that joining them takes.
    n = text[1].shape[1]
    batch, _, width = torch.broadcast_shapes(*(x.shape for x in video))
    dtype = torch.promote_types(video[0].dtype, torch.promote_types(video[1].dtype, video[2].dtype))
    out = into
    if out is None or out.dtype != dtype:
        out = video[1].new_empty(batch, n + video[1].shape[1], width, dtype=dtype)
    torch.addcmul(*text, out=out[:, :n])
    torch.addcmul(*video, out=out[:, n:])
    return out
