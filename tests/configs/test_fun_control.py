"""Tests of the preset for CogVideoX-Fun's control weights, with random weights in the published layout."""
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import sample_video
from arguments import get_args
from common.files import REPOSITORY
from common.seeds import generator_for
from configuration.targets import check_config, instantiate_from_config
from inference.sizes import model_limits, plan_video
from media.clips import read_frames
from media.records import load_latents
from media.videos import write_video
from tests.configs.test_presets import RELEASED, released_shapes
from weights.diffusers_config import transformer_config, vae_config

# By preset: the released model of its structure, the noise schedule's shift, and a size for the small model, whose
# trained one is 32 x 48: taller, as owners of these weights sample, or that one for a fixed table.
KINDS = {"cogvideox_fun_5b_control": ("cogvideox_5b", 1.0, (96, 64)),
         "cogvideox_fun_2b_control": ("cogvideox_2b", 3.0, (32, 48))}
T5 = REPOSITORY / "checkpoints" / "tiny" / "t5"
TEXT, STEPS = 16, 4  # steps that divide 1000, as 50 do, which diffusers takes at the same timesteps
NETWORK = {"num_frames": 9, "latent_height": 4, "latent_width": 6, "num_layers": 2, "hidden_size": 128,
           "num_attention_heads": 2, "time_embed_dim": 32}
VAE = {"ch": 32, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1}


def base(name):
    return ["--base", f"configs/{name}.yaml", "configs/inference.yaml"]


def small(name):
    """Return the words that make a preset's model a small one of the same structure."""
    network, vae = "model.network_config.params", "model.first_stage_config.params"
    words = [f"{network}.{key}={value}" for key, value in NETWORK.items()]
    words += [f"{vae}.{part}_config.params.{key}={value}" for part in ("encoder", "decoder")
              for key, value in VAE.items()]
    return [*words, f"{network}.modules.patch_embed_config.params.text_hidden_size=64",
            f"{network}.modules.pos_embed_config.params.text_length={TEXT}",
            f"model.conditioner_config.params.emb_models.0.params.max_length={TEXT}", "args.bf16=false",
            f"model.sampler_config.params.num_steps={STEPS}", "--num-frames", "9", "--sampling-image-size",
            *map(str, KINDS[name][2])]


@pytest.fixture(scope="module", params=KINDS)
def name(request):
    """The name of a preset."""
    return request.param


@pytest.fixture(scope="module")
def published(tmp_path_factory, name):
    """A folder as published: parts that diffusers wrote, and the keys that CogVideoX-Fun adds to config.json."""
    diffusers = pytest.importorskip("diffusers")
    from transformers import T5EncoderModel
    model = OmegaConf.to_container(get_args([*base(name), *small(name)]).model_config)
    folder = tmp_path_factory.mktemp("fun") / "CogVideoX-Fun-V1.1-5b-Control"
    parts = {"transformer": diffusers.CogVideoXTransformer3DModel.from_config(
                 transformer_config(model["network_config"]["params"])),
             "vae": diffusers.AutoencoderKLCogVideoX.from_config(vae_config(model))}
    torch.manual_seed(1)
    for part_name, part in parts.items():
        for key, value in part.state_dict().items():
            if value.dim() == 1:
                value.copy_(float("norm" in key and key.endswith("weight")) + 0.1 * torch.randn(value.shape))
            else:
                torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        part.save_pretrained(folder / part_name)
    T5EncoderModel.from_pretrained(T5).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    shutil.copy(T5 / "spiece.model", folder / "tokenizer")
    scheduler = diffusers.CogVideoXDDIMScheduler(
        timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True,
        snr_shift_scale=KINDS[name][1])
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoX_Fun_Pipeline_Control"}))
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"add_noise_in_inpaint_model": True}))
    return folder


@pytest.fixture
def control(tmp_path, name):
    """A control clip, nine frames of the video's size at 8 fps."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, *KINDS[name][2], 3), np.uint8)
    write_video(tmp_path / "control.mp4", [pixels], 8)
    return tmp_path / "control.mp4"


@pytest.fixture
def sample(name, published, control, tmp_path):
    """A function that samples latents with the preset's one command; returns the exit code and the latents' folder."""
    def call(*words, folder=published):
        (tmp_path / "prompts.txt").write_text(f"a red circle@@{control}")
        code = sample_video.main([*base(name), *small(name), f"args.load={folder}", "--input-file",
                                  str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / "out"), "--seed", "3",
                                  "--only-save-latents", *words])
        return code, tmp_path / "out" / "0_a_red_circle" / "0"
    return call


def test_the_network_has_the_published_shapes(name):
    args = get_args(base(name))
    check_config(args.model_config)
    with torch.device("meta"):
        network = instantiate_from_config(args.model_config.network_config)
    like = KINDS[name][0]
    wanted = released_shapes(like) | {"mixins.patch_embed.proj.weight": (RELEASED[like][2], 128)}
    found = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: shape for key, shape in found.items() if key != "mixins.pos_embed.pos_embedding"} == wanted


def test_scaled_positions_take_every_size():
    args = get_args(base("cogvideox_fun_5b_control"))
    with torch.device("meta"):
        network = instantiate_from_config(args.model_config.network_config)
    limits = model_limits(args.model_config)
    plan = plan_video(limits, args.changed(sampling_image_size=[1024, 1024]).sampling)
    assert (plan.frames, plan.patches) == (49, (13, 64, 64))
    assert network.mixins["pos_embed"].rotary(plan.patches, 226, "meta")[0].shape[0] == 226 + 13 * 64 * 64


@pytest.mark.slow
def test_one_command_samples_what_diffusers_samples(name, sample, published, control, caplog):
    import diffusers
    from transformers import T5EncoderModel, T5Tokenizer
    with caplog.at_level(logging.INFO):
        code, folder = sample()
    assert code == 0 and f"the text encoder is loaded from {published}" in caplog.text
    assert "scheduler_config.json has" not in caplog.text
    mine = load_latents(folder / "latents.safetensors")[0]
    parts = {"vae": diffusers.AutoencoderKLCogVideoX, "transformer": diffusers.CogVideoXTransformer3DModel,
             "scheduler": diffusers.CogVideoXDDIMScheduler, "text_encoder": T5EncoderModel, "tokenizer": T5Tokenizer}
    pipeline = diffusers.CogVideoXFunControlPipeline(
        **{part: kind.from_pretrained(published / part) for part, kind in parts.items()})
    pipeline.transformer.norm_out.norm.eps = 1e-6  # as the released weights were trained
    pipeline.set_progress_bar_config(disable=True)
    size = KINDS[name][2]
    frames = torch.from_numpy(read_frames(str(control))).permute(0, 3, 1, 2)[None] / 255
    noise = torch.randn(1, *mine.shape, generator=generator_for(3, 0, 0, "noise"))
    theirs = pipeline("a red circle", control_video=frames, height=size[0], width=size[1], latents=noise,
                      num_inference_steps=STEPS, max_sequence_length=TEXT, output_type="latent").frames[0]
    assert (mine - theirs).abs().max() < 2e-5 * theirs.abs().max()
