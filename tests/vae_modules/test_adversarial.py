"""The formulas of the adversarial loss."""
import pytest
import torch

from common.errors import ConfigError
from configuration.targets import check_config, instantiate_from_config
from tests.vae_modules.small_vae import build, video
from vae_modules.adversarial import (
    Critics,
    GeneralLPIPSWithDiscriminator,
    adaptive_weight,
    check_side,
    hinge,
    vanilla,
)
from vae_modules.discriminator import NLayerDiscriminator3D
from vae_modules.losses import reconstruction_loss

RELEASED = {"target": "sgm.modules.autoencoding.losses.discriminator_loss.GeneralLPIPSWithDiscriminator", "params": {
    "disc_start": 10, "disc_weight": 0.5, "disc_factor": 1.0, "perceptual_weight": 0.0, "disc_loss": "vanilla",
    "disc_num_layers": 1, "learn_logvar": False, "dims": 3}}
WITHOUT_LPIPS = {"perceptual_weight": 0.0, "disc_num_layers": 1}


def test_losses_of_a_discriminator_by_hand():
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert hinge(real, made).item() == pytest.approx(0.5 * ((0 + 0.5) / 2 + (0 + 2) / 2))
    softplus = [torch.log1p(torch.tensor(x).exp()).item() for x in (-2.0, -0.5, -3.0, 1.0)]
    assert vanilla(real, made).item() == pytest.approx(0.5 * (sum(softplus[:2]) / 2 + sum(softplus[2:]) / 2))


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    near = adaptive_weight((last ** 2).sum(), 3 * last.sum(), last)  # gradients (2, 4) and (3, 3)
    assert near.item() == pytest.approx(20 ** 0.5 / (18 ** 0.5 + 1e-4)) and not near.requires_grad
    assert adaptive_weight(1e3 * last.sum(), 1e-9 * last.sum(), last).item() == 1e4


def test_the_autoencoders_loss_is_the_sum_of_its_terms_and_leaves_the_discriminator_alone():
    model, clip = build(loss=True), video()
    loss = GeneralLPIPSWithDiscriminator(0, disc_factor=0.5, disc_weight=0.25, **WITHOUT_LPIPS)
    discriminator = NLayerDiscriminator3D(ndf=4, n_layers=1)
    pixels, _, frames = reconstruction_loss(model, clip, torch.Generator().manual_seed(0))
    total, terms = loss.of_autoencoder(pixels, clip, frames, Critics(discriminator), model.last_layer,
                                       torch.Generator())
    adversarial = -discriminator(frames).mean()
    a, b = (torch.autograd.grad(x, model.decoder.conv_out.conv.weight, retain_graph=True)[0].norm()
            for x in (pixels, adversarial))
    weight = 0.25 * a / (b + 1e-4)
    assert terms["adaptive_weight"].item() == pytest.approx(weight.item(), rel=1e-4)
    assert total.item() == pytest.approx((pixels + 0.5 * weight * adversarial).item(), rel=1e-5)
    total.backward()
    assert all(p.grad is None for p in discriminator.parameters())
    judged, _ = loss.of_discriminator(discriminator, clip, frames)
    judged.backward()
    assert judged.item() == pytest.approx(0.5 * hinge(discriminator(clip), discriminator(frames)).item(), rel=1e-5)
    assert all(p.grad is not None for p in discriminator.parameters())


def test_lpips_sees_one_frame_of_each_clip():
    class Difference(torch.nn.Module):
        def forward(self, x, y):
            return (x - y).flatten(1).mean(1)

    clip, frames = torch.zeros(64, 3, 5, 2, 2), torch.arange(5.0).view(1, 1, 5, 1, 1).expand(64, 3, 5, 2, 2)
    loss = GeneralLPIPSWithDiscriminator(0, perceptual_weight=2.0)
    total, terms = loss.of_autoencoder(torch.tensor(1.0), clip, frames, Critics(lpips=Difference()), clip,
                                       torch.Generator().manual_seed(0))
    assert terms["lpips"].item() == pytest.approx(2, abs=0.6) and total.item() == pytest.approx(
        1 + 2 * terms["lpips"].item())


def test_the_releases_keys_are_taken_and_no_network_is_part_of_the_loss():
    loss = instantiate_from_config(check_config(RELEASED, "loss_config"))
    assert not list(loss.parameters()) and loss.state_dict() == {}
    assert isinstance(loss.build_discriminator(), NLayerDiscriminator3D)
    without = {**RELEASED, "params": RELEASED["params"] | {"disc_factor": 0}}
    assert instantiate_from_config(without).build_discriminator() is None


@pytest.mark.parametrize("changes, told", [
    ({"disc_loss": "wgan"}, "disc_loss is 'wgan'; it must be hinge or vanilla"),
    ({"disc_start": -1}, "disc_start is -1"), ({"vgg_weights": "a.pth"}, "LPIPS needs both of its files"),
    ({"disc_weigth": 1}, "did you mean disc_weight"),
    ({"discriminator_config": {"target": "sgm.modules.autoencoding.lpips.model.model.NLayerDiscriminator"}},
     "did you mean NLayerDiscriminator3D")])
def test_wrong_values_are_one_line(changes, told):
    with pytest.raises(ConfigError, match=told):
        instantiate_from_config(check_config({**RELEASED, "params": RELEASED["params"] | changes}, "a.loss_config"))


def test_the_releases_other_loss_is_refused_by_name():
    with pytest.raises(ConfigError, match="does not resolve, vae_modules.adversarial has no VideoAutoencoderLoss"):
        check_config({"target": "sgm.modules.autoencoding.losses.video_loss.VideoAutoencoderLoss"}, "a.loss_config")


def test_clips_that_are_too_small_are_refused():
    loss = GeneralLPIPSWithDiscriminator(0, perceptual_weight=0, disc_num_layers=3)
    check_side(loss, 24)
    with pytest.raises(ConfigError, match="a side of 16 pixels, and 24 is the least for the discriminator; take fewer"):
        check_side(loss, 16)
