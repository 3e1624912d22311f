"""The autoencoder's training starts from weights in any spelling."""
import torch
from safetensors.torch import save_file

from tests.released_structures import random_vae
from training.autoencoder_model import _initial_weights
from weights.checkpoint import load_module


def test_weights_of_a_whole_checkpoint_start_the_training(tmp_path):
    given, model = random_vae(), random_vae()
    stored = {f"first_stage_model.{name}": value for name, value in given.state_dict().items()}
    save_file(stored | {"model.diffusion_model.time_embed.0.weight": torch.ones(2)}, tmp_path / "all.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    fresh = ("first_stage_model.decoder.conv_out",)
    load_module(model, _initial_weights(model, str(tmp_path / "all.safetensors"), fresh, ()), "all")
    for name, value in model.state_dict().items():
        wanted = given.state_dict()[name]
        assert torch.equal(value, torch.zeros_like(wanted) if name.startswith("decoder.conv_out") else wanted)


def test_tensors_of_the_releases_own_discriminator_are_left_out_on_request(tmp_path):
    given = random_vae()
    save_file(given.state_dict() | {"loss.discriminator.main.0.weight": torch.ones(2)}, tmp_path / "vae.safetensors")
    found = _initial_weights(random_vae(), str(tmp_path / "vae.safetensors"), (), ["loss"])
    assert found.keys() == given.state_dict().keys()
    with_all = _initial_weights(random_vae(), str(tmp_path / "vae.safetensors"), (), ())
    assert with_all.keys() - found.keys() == {"loss.discriminator.main.0.weight"}
