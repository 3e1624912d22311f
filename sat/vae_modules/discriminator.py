"""The discriminator of the autoencoder's training: it tells patches of clips from patches of their reconstructions."""
from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from common.kinds import Layers, Size
from common.unread import Unread

DEVIATION = 0.02  # of the initial weights (Radford et al. 2016, arXiv 1511.06434, section 3)
SLOPE = 0.2
WIDEST = 8  # times the width of the first layer
GROUPS = 32


class NLayerDiscriminator3D(nn.Module):
    """A patch discriminator (Isola et al. 2017, arXiv 1611.07004, section 6.1.2) that also looks along time.

    Frames (B, C, T, H, W) become logits (B, 1, t, h, w), each of which sees a patch of some frames. `n_layers`
    convolutions of 3 x 4 x 4 halve height and width, and from the second on also time; two more follow at that size.
    Time is padded on both sides, so that a single frame will do. `ndf` is the width of the first layer.

    `norm: group` puts GroupNorm between the layers, where the paper has BatchNorm, whose statistics of one or two clips
    would depend on which clips come together. `none` leaves norms out (docs/training.md compares both).
    """

    UNREAD: ClassVar = {"use_actnorm": Unread("`norm` says what is between the layers", (False,))}

    def __init__(self, input_nc: Literal[3] = 3, ndf: Size = 64, n_layers: Layers = 3, use_actnorm: bool = False,
                 norm: Literal["group", "none"] = "group"):
        super().__init__()
        self.n_layers = n_layers
        widths = [ndf * min(2**level, WIDEST) for level in range(n_layers + 1)]
        layers: list[nn.Module] = [_conv(input_nc, ndf, (1, 2, 2)), nn.LeakyReLU(SLOPE)]
        for level in range(1, n_layers + 1):
            stride = (2, 2, 2) if level < n_layers else (1, 1, 1)
            layers += [_conv(widths[level - 1], widths[level], stride, bias=norm == "none")]
            layers += [nn.GroupNorm(_groups(widths[level]), widths[level])] if norm == "group" else []
            layers += [nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*layers, _conv(widths[-1], 1, (1, 1, 1)))
        if norm == "none":
            self._keep_variance()

    def _keep_variance(self) -> None:
        """Give the convolutions initial weights that keep the variance of what passes (He et al. 2015, eq. 14)."""
        for layer in self.main:
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, SLOPE)

    @property
    def least_side(self) -> int:
        """The fewest pixels that a side of a frame may have."""
        return 3 * 2**self.n_layers  # the last two convolutions take a pixel each

    def forward(self, frames: Tensor) -> Tensor:
        return self.main(frames)


def _conv(before: int, after: int, stride: tuple[int, int, int], bias: bool = True) -> nn.Conv3d:
    conv = nn.Conv3d(before, after, (3, 4, 4), stride, padding=1, bias=bias)
    nn.init.normal_(conv.weight, 0.0, DEVIATION)
    return conv


def _groups(width: int) -> int:
    """Return the most groups, up to 32, that divide a width into parts of at least four channels."""
    return next(groups for groups in range(min(GROUPS, max(width // 4, 1)), 0, -1) if width % groups == 0)
