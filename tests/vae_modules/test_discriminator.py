"""The discriminator on clips and single frames."""
import pytest
import torch
import torch.nn.functional as F

from vae_modules.adversarial import hinge
from vae_modules.discriminator import NLayerDiscriminator3D


@pytest.mark.parametrize("frames, logits", [(1, (1, 2, 4)), (9, (5, 2, 4)), (17, (9, 2, 4))])
def test_clips_and_single_frames_become_logits_of_patches(frames, logits):
    discriminator = NLayerDiscriminator3D(ndf=8, n_layers=2)
    assert discriminator(torch.zeros(2, 3, frames, 16, 24)).shape == (2, 1, *logits)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_its_least_side_leaves_one_patch(layers):
    discriminator = NLayerDiscriminator3D(ndf=4, n_layers=layers)
    side = discriminator.least_side
    assert discriminator(torch.zeros(1, 3, 1, side, side)).shape == (1, 1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        discriminator(torch.zeros(1, 3, 1, side - 1, side - 1))


def test_a_patch_sees_neighbouring_frames():
    discriminator, clip = NLayerDiscriminator3D(ndf=8, n_layers=2), torch.zeros(1, 3, 9, 12, 12)
    other = clip.clone()
    other[:, :, 4] = 1
    changed = (discriminator(clip) - discriminator(other)).abs().amax(dim=(0, 1, 3, 4))
    assert (changed[1:4] > 0).all()  # logits of frames 2 to 6


def test_without_norms_its_initial_weights_keep_the_variance_of_what_passes():
    torch.manual_seed(0)
    logits = NLayerDiscriminator3D(ndf=16, n_layers=2, norm="none")(torch.randn(2, 3, 5, 24, 24))
    assert 0.2 < logits.std() < 5


def test_without_norms_it_learns_to_tell_sharp_from_blurred():
    torch.manual_seed(0)
    discriminator = NLayerDiscriminator3D(ndf=8, n_layers=1, norm="none")
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for _ in range(25):
        sharp = torch.randn(2, 3, 1, 12, 12)
        blurred = F.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1))
        loss = hinge(discriminator(sharp), discriminator(blurred))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.6
