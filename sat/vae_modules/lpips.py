"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): the distance of pictures in the features of a trained network."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import CheckpointError
from weights.checkpoint import check_finite, describe_mismatches, read_state_dict

# Widths of the convolutions of VGG16 (Simonyan and Zisserman 2015, table 1, D), by block. A block ends in a ReLU whose
# features count; all but the last are followed by a pooling.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# The mean and deviation that VGG16 was trained with (of colours in [0, 1]), for colours in [-1, 1].
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LEAST_NORM = 1e-10
VGG, LINEAR = "features.{}.{}", "lin{}.model.1.weight"  # names in torchvision's VGG16, and in the package lpips


class LPIPS(nn.Module):
    """The distance (B,) of pictures x and y, (B, 3, H, W) in [-1, 1]: eq. 1 of the paper, with VGG16.

    At five depths features are brought to length 1 along their channels; their squared differences are weighted by
    channel, and averaged over the picture. Nothing here is trained.
    """

    least_side = 2 ** (len(BLOCKS) - 1)  # pixels, of which the poolings leave one

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        before = 3
        for widths in BLOCKS:
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if self.blocks else []
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.blocks.append(nn.Sequential(*layers))
        self.linear = nn.ParameterList(torch.empty(widths[-1]) for widths in BLOCKS)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        distance = torch.zeros(len(x), device=x.device)
        x, y = ((picture - self.mean) / self.deviation for picture in (x, y))
        for block, weights in zip(self.blocks, self.linear, strict=True):
            x, y = block(x), block(y)
            difference = (_of_length_one(x) - _of_length_one(y)).square()
            distance = distance + torch.einsum("bchw,c->bhw", difference, weights).mean(dim=(1, 2))
        return distance


def _of_length_one(features: Tensor) -> Tensor:
    # The sum has a gradient everywhere; a norm has none at 0.
    return features / (features.square().sum(dim=1, keepdim=True) + LEAST_NORM**2).sqrt()


def load_lpips(vgg: str, linear: str) -> LPIPS:
    """Return the network with VGG16's weights in torchvision's layout, and those of channels in the package lpips'.

    Both files may be safetensors or hold a plain state dict; tensors that play no part are left unread. Raises
    CheckpointError for files that are missing or damaged, or whose tensors are others.
    """
    network = LPIPS()
    own = network.state_dict()
    _fill({name: theirs for name, theirs in names(network).items() if name.startswith("blocks.")}, own, vgg,
          "VGG16 in torchvision's layout, such as vgg16-397923af.pth")
    _fill({name: theirs for name, theirs in names(network).items() if name.startswith("linear.")}, own, linear,
          "the weights that the package lpips has for VGG16, lpips/weights/v0.1/vgg.pth")
    if any((weights < 0).any() for weights in network.linear):
        raise CheckpointError(f"{linear} has weights below 0, with which pictures could be nearer than equal ones; use "
                              "lpips/weights/v0.1/vgg.pth of the package lpips")
    return network


def names(network: LPIPS) -> dict[str, str]:
    """Return the names that the network's tensors have in files, by their own."""
    found = {f"linear.{number}": LINEAR.format(number) for number in range(len(BLOCKS))}
    place = 0  # in torchvision's list of convolutions, ReLUs and poolings
    for number, block in enumerate(network.blocks):
        assert isinstance(block, nn.Sequential)
        for position, layer in enumerate(block):
            if isinstance(layer, nn.Conv2d):
                found |= {f"blocks.{number}.{position}.{kind}": VGG.format(place, kind) for kind in ("weight", "bias")}
            place += 1
    return found


def _fill(wanted: Mapping[str, str], own: Mapping[str, Tensor], path: str, what: str) -> None:
    """Copy the tensors of a file into those of the network."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is no file; it should be {what}, and nothing is downloaded")
    theirs = set(wanted.values())
    state = {name: value for name, value in read_state_dict(path, theirs).items() if name in theirs}
    shapes = {name: own[mine].reshape(_shape_in_file(mine, own[mine])) for mine, name in wanted.items()}
    if faults := describe_mismatches(shapes, state):
        raise CheckpointError(f"{path} is not {what}; {faults}")
    check_finite(state, path)
    with torch.no_grad():
        for mine, name in wanted.items():
            own[mine].copy_(state[name].reshape(own[mine].shape))


def _shape_in_file(name: str, value: Tensor) -> tuple[int, ...]:
    return (1, len(value), 1, 1) if name.startswith("linear.") else tuple(value.shape)
