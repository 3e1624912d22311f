"""The autoencoder's training: noise on latents, the course of the learning rate, how good reconstructions are."""

import pytest
import torch

from tests.vae_modules.small_vae import build, video
from training.autoencoder import course_of, psnr
from training.data.memory_clips import MemoryClips, Stage
from vae_modules.losses import reconstruction_loss


def test_noise_on_latents_has_a_size_of_its_own_for_each_clip():
    seen = []
    for tau in (0.0, 0.5):
        model = build(loss=True)
        decode = model.decode
        model.decode = lambda z, decode=decode: (seen.append(z), decode(z))[1]
        reconstruction_loss(model, video(1, batch=64), torch.Generator().manual_seed(0), tau)
    sizes = (seen[1] - seen[0]).detach().square().mean((1, 2, 3, 4)).sqrt()
    assert sizes.mean().item() == pytest.approx(0.5 * (2 / torch.pi) ** 0.5, rel=0.2)  # of |N(0, 0.5^2)|
    assert sizes.min() < 0.1 and sizes.max() > 0.8


def test_learning_rate_warms_up_and_falls():
    course = course_of(1.0, [Stage(300, 1, 1), Stage(700, 9, 1)])
    assert course.steps == 1000
    rates = [course.learning_rate(step) for step in (0, 49, 50, 525, 1000)]
    assert rates == pytest.approx([0.02, 1.0, 1.0, 0.505, 0.01])


def test_psnr_counts_from_the_whole_range_of_values():
    class OffByOne:
        def encode(self, x, sample_posterior):
            return x

        def decode(self, z):
            return z + 2 / 255  # a value of 255

    clips = MemoryClips(torch.full((2, 3, 1, 8, 8), 100, dtype=torch.uint8))
    assert psnr(OffByOne(), clips, torch.device("cpu")) == pytest.approx(48.13, abs=0.01)  # 20 log10 255
