"""Models with control input beside diffusers' pipeline for CogVideoX-Fun's control models, with random weights."""
import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.random_models import SCALE, SIZES, Size, our_engine, our_network
from common.compression import COGVIDEOX
from sgm.sampling.start import FromLevel
from weights.network import build_network

pytestmark = pytest.mark.slow

CPU, STEPS = torch.device("cpu"), 4  # of which both choose the same timesteps
TINY = SIZES["tiny"]


class Controlled(Size):
    """A size whose model has control input."""

    def model(self):
        return super().model() | {"control_input": True}


SIZE = Controlled("cogvideox_5b", TINY.latent, TINY.decoded, dict(TINY.network) | {"in_channels": 32}, TINY.vae,
                  TINY.text, TINY.text_width, STEPS)


@torch.no_grad()
def test_whole_sampling_with_a_control_clip_is_that_of_diffusers(diffusers):
    from diffusers import CogVideoXDDIMScheduler, CogVideoXFunControlPipeline

    from benchmarks.speed_models import their_network, their_vae
    from benchmarks.speed_parts import use_levels
    model = SIZE.model()
    ours = our_engine(model, CPU, torch.float32)
    ours.first_stage_model.encode_in_chunks = True  # as diffusers does
    scheduler = CogVideoXDDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False)
    theirs = CogVideoXFunControlPipeline(None, None, their_vae(model, ours.first_stage_model),
                                         their_network(model, ours.network), scheduler)
    theirs.set_progress_bar_config(disable=True)

    torch.manual_seed(1)
    text, noise = torch.randn(1, SIZE.text_length, SIZE.text_width), torch.randn(1, *SIZE.latent)
    frames, (height, width) = COGVIDEOX.video_frames(SIZE.latent[0]), COGVIDEOX.video_size(*SIZE.latent[2:])
    control = torch.rand(1, frames, 3, height, width) * 2 - 1
    concat, zeros = ours.encode_clip(control.transpose(1, 2)), torch.zeros_like(text)
    assert concat.shape == noise.shape and concat.std() > 0.1

    def sampled(concat):
        return ours.sample({"crossattn": text, "concat": concat}, {"crossattn": zeros, "concat": concat}, 1,
                           SIZE.latent, num_steps=STEPS, start=FromLevel(noise, 0))

    use_levels(theirs.scheduler, ours.sampler.discretization, STEPS)
    found = theirs(prompt_embeds=text, negative_prompt_embeds=zeros, latents=noise, control_video=(control + 1) / 2,
                   height=height, width=width, guidance_scale=SCALE, num_inference_steps=STEPS,
                   output_type="latent").frames
    assert (sampled(concat) - found).abs().max() < 2e-5 * found.abs().max()
    assert (sampled(concat.flip(1)) - found).abs().max() > 1e-2 * found.abs().max(), "the control clip counts"


def test_weights_of_a_folder_of_diffusers_load(diffusers, tmp_path):
    from benchmarks.speed_models import their_network
    config = OmegaConf.create(SIZE.model()["network_config"])
    ours = our_network(SIZE.model(), CPU, torch.float32)
    their_network(SIZE.model(), ours).save_pretrained(tmp_path / "transformer")
    loaded = build_network(config, tmp_path, torch.float32, CPU)
    state = ours.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
