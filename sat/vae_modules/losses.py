"""The autoencoder's training loss."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from common.kinds import NotNegative
from vae_modules.autoencoder import VideoAutoencodingEngine
from vae_modules.regularizers import DiagonalGaussian


class ReconstructionLoss(nn.Module):
    """The loss `l1_weight |x - y| + l2_weight (x - y)^2 + edge_weight |grad x - grad y| + kl_weight KL`.

    Terms are means over all pixels; the KL is per latent element. The gradient difference (after Mathieu et al. 2016,
    arXiv 1511.05440) is taken between neighbouring pixels of a frame and favours edges and corners as sharp as the
    video's. With `equal_contrast`, a video's errors are divided by its standard deviation about its mean colour, so
    that faint or small content counts as much as bright content.
    """

    def __init__(self, l1_weight: NotNegative = 1.0, l2_weight: NotNegative = 1.0,
                 kl_weight: NotNegative = 1e-6, edge_weight: NotNegative = 0.0, equal_contrast: bool = False):
        super().__init__()
        self.l1_weight, self.l2_weight, self.kl_weight, self.edge_weight = l1_weight, l2_weight, kl_weight, edge_weight
        self.equal_contrast = equal_contrast

    def forward(self, video: Tensor, reconstruction: Tensor, posterior: DiagonalGaussian
                ) -> tuple[Tensor, dict[str, Tensor]]:
        error = reconstruction.float() - video
        if self.equal_contrast:
            error = error / contrast(video)
        l1, l2 = error.abs().mean(), error.square().mean()
        edge = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = self.l1_weight * l1 + self.l2_weight * l2 + self.edge_weight * edge + self.kl_weight * kl
        return loss, {"l1": l1.detach(), "l2": l2.detach(), "edge": edge.detach(), "kl": kl.detach()}


def contrast(video: Tensor) -> Tensor:
    """Return the RMS deviation (B, 1, 1, 1, 1) of videos (B, C, T, H, W) from their mean colour, at least 0.01."""
    variance, _ = torch.var_mean(video, dim=(2, 3, 4), keepdim=True, correction=0)
    return variance.mean(dim=1, keepdim=True).sqrt().clamp_min(0.01)


def reconstruction_loss(model: VideoAutoencodingEngine, video: Tensor, generator: torch.Generator,
                        latent_noise: float = 0.0) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return the loss of a video's reconstruction from a draw of its latent, the terms of the loss, and the frames.

    `latent_noise` is tau of noise-augmented decoding (arXiv 2510.11690), which makes the decoder robust to latents that
    a diffusion model sampled: z + |n| e, n ~ N(0, tau^2) per clip, e ~ N(0, 1).
    """
    moments = model.encode(video, unregularized=True).float()  # under autocast they are of 16 bits, as the frames are
    z, posterior = model.regularization(moments, generator)
    if latent_noise:
        size = latent_noise * torch.randn(len(z), 1, 1, 1, 1, generator=generator).abs()
        z = z + (size * torch.randn(z.shape, generator=generator)).to(z)
    frames = model.decode(z).float()
    return *model.loss(video, frames, posterior), frames
