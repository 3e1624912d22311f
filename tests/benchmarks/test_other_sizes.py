"""Whole sampling beside diffusers' pipeline, at the trained size and at others."""
import pytest
import torch

from benchmarks.random_models import SIZES, Size

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TRAINED = {"num_layers": 1, "hidden_size": 64, "num_attention_heads": 1, "latent_height": 60, "latent_width": 90,
           "num_frames": 9}
PRESETS = ("cogvideox_5b", "cogvideox_2b")


class Keyed(Size):
    """A size whose positions have the key `other_sizes`."""

    def model(self):
        model = super().model()
        positions = model["network_config"]["params"]["modules"]["pos_embed_config"]
        positions["params"]["other_sizes"] = "diffusers"
        return model


@torch.no_grad()
def relative_difference(kind, preset, height, width):
    """Return the largest difference of two guided steps, relative to the largest value."""
    pytest.importorskip("diffusers")
    from benchmarks.setting import Setting
    from benchmarks.speed_parts import _engines, _sampled
    tiny = SIZES["tiny"]
    size = kind(preset, (3, 16, height, width), (3, height, width), TRAINED, tiny.vae, tiny.text, 64, 2)
    setting = Setting(size, CPU, torch.float32)
    pair = _sampled(setting, *_engines(setting), steps=2, decoded=False)
    mine, theirs = pair.ours(), pair.diffusers()
    return float((mine - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(60, 90), (48, 80), (40, 56)])
def test_with_the_key_whole_pipelines_agree(preset, size):
    assert relative_difference(Keyed, preset, *size) < 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_without_the_key_smaller_videos_differ_as_the_release_does(preset):
    assert relative_difference(Size, preset, 40, 56) > 1e-3
