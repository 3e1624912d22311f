"""The autoencoder's loss with a discriminator and LPIPS, for sharp pictures (Esser et al. 2021, arXiv 2012.09841)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError
from common.kinds import AboveZero, Count, Layers, NotNegative, Part, Text
from common.unread import Unread
from configuration.targets import instantiate_from_config
from vae_modules.losses import ReconstructionLoss
from vae_modules.lpips import LPIPS, load_lpips

LEAST_NORM, MOST_WEIGHT = 1e-4, 1e4
DISCRIMINATOR = "sgm.modules.autoencoding.lpips.model.model.NLayerDiscriminator3D"
_OF_IMAGES = "the discriminator sees clips, and LPIPS single frames of them"
_NO_VARIANCE = "the reconstruction's error has no variance that is learned"


@dataclass(frozen=True)
class Critics:
    """The networks that judge reconstructions and are no part of the autoencoder; None for those that are off."""

    discriminator: nn.Module | None = None
    lpips: LPIPS | None = None


class GeneralLPIPSWithDiscriminator(ReconstructionLoss):
    """The settings and formulas of a loss `ReconstructionLoss + perceptual_weight LPIPS + weight adversarial`.

    From step `disc_start` on, the autoencoder also loses by `-D(y)` and the discriminator D by `disc_loss`, both times
    `disc_factor`; 0 leaves out the discriminator. The weight is `disc_weight` times that of `adaptive_weight`. LPIPS
    needs the files `vgg_weights` and `lpips_weights` (see `vae_modules.lpips`), and looks at one frame of each clip.
    The networks are no modules of this loss, so that they are neither averaged nor exported with the autoencoder.
    """

    UNREAD: ClassVar = {"logvar_init": Unread(_NO_VARIANCE, (0.0,)), "learn_logvar": Unread(_NO_VARIANCE, (False,)),
                        "dims": Unread(_OF_IMAGES, (2, 3)),
                        "disc_in_channels": Unread("a frame has three colours", (3,)),
                        "scale_input_to_tgt_size": Unread("a reconstruction has its clip's size", (False,)),
                        "additional_log_keys": Unread("all terms are logged", (None, (), []))}

    def __init__(self, disc_start: Count, disc_factor: NotNegative = 1.0, disc_weight: NotNegative = 1.0,
                 disc_loss: Literal["hinge", "vanilla"] = "hinge", disc_learning_rate: AboveZero | None = None,
                 disc_num_layers: Layers | None = None, disc_in_channels: Literal[3] = 3,
                 discriminator_config: Part | None = None,
                 perceptual_weight: NotNegative = 1.0, vgg_weights: Text | None = None,
                 lpips_weights: Text | None = None, l1_weight: NotNegative = 1.0, l2_weight: NotNegative = 0.0,
                 kl_weight: NotNegative = 1e-6, edge_weight: NotNegative = 0.0, equal_contrast: bool = False,
                 logvar_init: float = 0.0, learn_logvar: bool = False, dims: int = 3,
                 scale_input_to_tgt_size: bool = False, additional_log_keys: Sequence[str] | None = None):
        super().__init__(l1_weight, l2_weight, kl_weight, edge_weight, equal_contrast)
        self.disc_start, self.disc_factor, self.disc_weight = disc_start, disc_factor, disc_weight
        self.disc_loss, self.disc_learning_rate = disc_loss, disc_learning_rate
        self.unread_layers = discriminator_config is not None and disc_num_layers is not None
        self.discriminator_config = discriminator_config or {
            "target": DISCRIMINATOR, "params": {} if disc_num_layers is None else {"n_layers": disc_num_layers}}
        self.perceptual_weight, self.vgg_weights, self.lpips_weights = perceptual_weight, vgg_weights, lpips_weights
        if (vgg_weights is None) != (lpips_weights is None):
            lacking = "vgg_weights" if vgg_weights is None else "lpips_weights"
            raise ValueError(f"LPIPS needs both of its files; give {lacking} too")

    @property
    def has_lpips(self) -> bool:
        """True if LPIPS counts and its files are named."""
        return self.perceptual_weight > 0 and self.vgg_weights is not None

    def build_discriminator(self) -> nn.Module | None:
        """Return a discriminator with random weights, or None if it is off."""
        return instantiate_from_config(self.discriminator_config) if self.disc_factor else None

    def build_lpips(self) -> LPIPS | None:
        """Return LPIPS with its weights, or None if it is off. Raises CheckpointError for files that do not fit."""
        if not self.has_lpips:
            return None
        assert self.vgg_weights is not None and self.lpips_weights is not None
        return load_lpips(self.vgg_weights, self.lpips_weights)

    def of_autoencoder(self, loss: Tensor, video: Tensor, frames: Tensor, critics: Critics, last_layer: Tensor,
                       generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `loss`, that of the reconstruction, with what the critics add to it, and the terms they add.

        `frames` (B, 3, T, H, W) are the reconstruction of `video`, and `last_layer` the weights of the decoder's last
        layer. `generator` draws the frames that LPIPS sees. The discriminator's weights get no gradient.
        """
        terms: dict[str, Tensor] = {}
        if critics.lpips is not None:
            which = torch.randint(video.shape[2], (len(video),), generator=generator)
            rows = torch.arange(len(video))
            distance = critics.lpips(frames[rows, :, which].float(), video[rows, :, which].float()).mean()
            loss, terms["lpips"] = loss + self.perceptual_weight * distance, distance.detach()
        if critics.discriminator is not None:
            critics.discriminator.requires_grad_(False)
            adversarial = -critics.discriminator(frames).mean()
            weight = self.disc_weight * adaptive_weight(loss, adversarial, last_layer)
            loss = loss + weight * self.disc_factor * adversarial
            terms |= {"adversarial": adversarial.detach(), "adaptive_weight": weight}
        return loss, terms

    def of_discriminator(self, discriminator: nn.Module, video: Tensor, frames: Tensor
                         ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss on clips and their reconstructions, and its terms."""
        discriminator.requires_grad_(True)
        real, made = discriminator(video), discriminator(frames.detach())
        loss = self.disc_factor * DISCRIMINATOR_LOSSES[self.disc_loss](real, made)
        return loss, {"disc_loss": loss.detach(), "logits_real": real.detach().mean(),
                      "logits_made": made.detach().mean()}


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return the weight with which the adversarial loss moves the decoder's last layer as much as the other loss does.

    It is the ratio of the norms of both gradients there (Esser et al. 2021, eq. 7), at most 10^4.
    """
    norms = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction,
                                                                                              adversarial)]
    return (norms[0] / (norms[1] + LEAST_NORM)).clamp(0.0, MOST_WEIGHT).detach()


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator's logits (Lim and Ye 2017, arXiv 1705.02894, section 3)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def vanilla(real: Tensor, made: Tensor) -> Tensor:
    """Return the cross entropy of a discriminator's logits (Goodfellow et al. 2014, eq. 1), halved."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(made).mean())


DISCRIMINATOR_LOSSES = {"hinge": hinge, "vanilla": vanilla}


def check_side(loss: GeneralLPIPSWithDiscriminator, side: int) -> None:
    """Raise ConfigError for clips whose shorter side, in pixels, is too small for what judges them."""
    with torch.device("meta"):
        discriminator, lpips = loss.build_discriminator(), LPIPS() if loss.has_lpips else None
    for network, name in ((discriminator, "the discriminator; take fewer layers (n_layers)"), (lpips, "LPIPS")):
        least = getattr(network, "least_side", 0)
        if side < least:
            raise ConfigError(f"data.params.video_size has a side of {side} pixels, and {least} is the least for "
                              f"{name}")
