"""Tests of the autoencoder's loss on errors whose terms are known."""
import pytest
import torch

from vae_modules.losses import ReconstructionLoss
from vae_modules.regularizers import DiagonalGaussian

POSTERIOR = DiagonalGaussian(torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2))  # standard normal: KL is 0
VIDEO = torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0))


def edge_term(error: torch.Tensor) -> float:
    loss = ReconstructionLoss(l1_weight=0, l2_weight=0, kl_weight=0, edge_weight=1.0)
    return loss(VIDEO, VIDEO + error, POSTERIOR)[0].item()


def test_an_even_shift_has_no_edges():
    shift = torch.full_like(VIDEO, 0.25)
    assert edge_term(shift) == pytest.approx(0, abs=1e-6)
    loss, terms = ReconstructionLoss(l1_weight=1, l2_weight=2)(VIDEO, VIDEO + shift, POSTERIOR)
    assert loss.item() == pytest.approx(0.25 + 2 * 0.0625, rel=1e-5)
    assert terms["l1"].item() == pytest.approx(0.25, rel=1e-5)


def test_a_wrong_pixel_counts_its_four_edges():
    error = torch.zeros_like(VIDEO)
    error[..., 3, 4] = 0.5
    assert edge_term(error) == pytest.approx(0.5 * 2 / (8 * 7) + 0.5 * 2 / (7 * 8), rel=1e-5)


def test_edges_between_frames_do_not_count():
    error = torch.zeros_like(VIDEO)
    error[:, :, 2] = 0.5
    assert edge_term(error) == pytest.approx(0, abs=1e-6)


def test_with_equal_contrast_a_faint_video_counts_as_much_as_a_bright_one():
    loss = ReconstructionLoss(l1_weight=1, l2_weight=0, kl_weight=0, equal_contrast=True)
    error = torch.full_like(VIDEO, 0.1)
    bright = loss(VIDEO, VIDEO + error, POSTERIOR)[0].item()
    assert bright == pytest.approx(0.1 / VIDEO.std(dim=(2, 3, 4), correction=0).square().mean().sqrt().item(), rel=1e-4)
    faint, offset = VIDEO / 5, torch.tensor([0.5, -0.3, 0.1])[None, :, None, None, None]
    assert loss(faint + offset, faint + offset + error / 5, POSTERIOR)[0].item() == pytest.approx(bright, rel=1e-4)
