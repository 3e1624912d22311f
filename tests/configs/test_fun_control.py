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
from tests.configs.test_presets import released_shapes
from weights.diffusers_config import transformer_config, vae_config

NAME = "cogvideox_fun_5b_control"
BASE = ["--base", f"configs/{NAME}.yaml", "configs/inference.yaml"]
T5 = REPOSITORY / "checkpoints" / "tiny" / "t5"
TEXT, STEPS = 16, 4  # steps that divide 1000, as 50 do, which diffusers takes at the same timesteps
SIZE = (96, 64)  # taller than the trained 32 x 48, as owners of these weights sample
NETWORK = {"num_frames": 9, "latent_height": 4, "latent_width": 6, "num_layers": 2, "hidden_size": 128,
           "num_attention_heads": 2, "time_embed_dim": 32}
VAE = {"ch": 32, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1}


def small():
    """Return the words that make the preset's model a small one of the same structure."""
    network, vae = "model.network_config.params", "model.first_stage_config.params"
    words = [f"{network}.{key}={value}" for key, value in NETWORK.items()]
    words += [f"{vae}.{part}_config.params.{key}={value}" for part in ("encoder", "decoder")
              for key, value in VAE.items()]
    return [*words, f"{network}.modules.patch_embed_config.params.text_hidden_size=64",
            f"{network}.modules.pos_embed_config.params.text_length={TEXT}",
            f"model.conditioner_config.params.emb_models.0.params.max_length={TEXT}", "args.bf16=false",
            f"model.sampler_config.params.num_steps={STEPS}", "--num-frames", "9", "--sampling-image-size",
            *map(str, SIZE)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as published: parts that diffusers wrote, and the keys that CogVideoX-Fun adds to config.json."""
    diffusers = pytest.importorskip("diffusers")
    from transformers import T5EncoderModel
    model = OmegaConf.to_container(get_args([*BASE, *small()]).model_config)
    folder = tmp_path_factory.mktemp("fun") / "CogVideoX-Fun-V1.1-5b-Control"
    parts = {"transformer": diffusers.CogVideoXTransformer3DModel.from_config(
                 transformer_config(model["network_config"]["params"])),
             "vae": diffusers.AutoencoderKLCogVideoX.from_config(vae_config(model))}
    torch.manual_seed(1)
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            if value.dim() == 1:
                value.copy_(float("norm" in key and key.endswith("weight")) + 0.1 * torch.randn(value.shape))
            else:
                torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        part.save_pretrained(folder / name)
    T5EncoderModel.from_pretrained(T5).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    shutil.copy(T5 / "spiece.model", folder / "tokenizer")
    scheduler = diffusers.CogVideoXDDIMScheduler(
        timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False, rescale_betas_zero_snr=True,
        snr_shift_scale=1.0)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoX_Fun_Pipeline_Control"}))
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"add_noise_in_inpaint_model": True}))
    return folder


@pytest.fixture
def control(tmp_path):
    """A control clip, nine frames of 96 x 64 at 8 fps."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, *SIZE, 3), np.uint8)
    write_video(tmp_path / "control.mp4", [pixels], 8)
    return tmp_path / "control.mp4"


@pytest.fixture
def sample(published, control, tmp_path):
    """A function that samples latents with the preset's one command; returns the exit code and the latents' folder."""
    def call(*words, folder=published):
        (tmp_path / "prompts.txt").write_text(f"a red circle@@{control}")
        code = sample_video.main([*BASE, *small(), f"args.load={folder}", "--input-file",
                                  str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / "out"), "--seed", "3",
                                  "--only-save-latents", *words])
        return code, tmp_path / "out" / "0_a_red_circle" / "0"
    return call


def test_the_network_has_the_published_shapes_and_takes_every_size():
    args = get_args(BASE)
    check_config(args.model_config)
    with torch.device("meta"):
        network = instantiate_from_config(args.model_config.network_config)
    wanted = released_shapes("cogvideox_5b") | {"mixins.patch_embed.proj.weight": (3072, 128)}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == wanted
    limits = model_limits(args.model_config)
    plan = plan_video(limits, args.changed(sampling_image_size=[1024, 1024]).sampling)
    assert (plan.frames, plan.patches) == (49, (13, 64, 64))
    assert network.mixins["pos_embed"].rotary(plan.patches, 226, "meta")[0].shape[0] == 226 + 13 * 64 * 64


@pytest.mark.slow
def test_one_command_samples_what_diffusers_samples(sample, published, control, caplog):
    import diffusers
    from transformers import T5EncoderModel, T5Tokenizer
    with caplog.at_level(logging.INFO):
        code, folder = sample()
    assert code == 0 and f"the text encoder is loaded from {published}" in caplog.text
    mine = load_latents(folder / "latents.safetensors")[0]
    parts = {"vae": diffusers.AutoencoderKLCogVideoX, "transformer": diffusers.CogVideoXTransformer3DModel,
             "scheduler": diffusers.CogVideoXDDIMScheduler, "text_encoder": T5EncoderModel, "tokenizer": T5Tokenizer}
    pipeline = diffusers.CogVideoXFunControlPipeline(
        **{name: kind.from_pretrained(published / name) for name, kind in parts.items()})
    pipeline.transformer.norm_out.norm.eps = 1e-6  # as the released weights were trained
    pipeline.set_progress_bar_config(disable=True)
    frames = torch.from_numpy(read_frames(str(control))).permute(0, 3, 1, 2)[None] / 255
    noise = torch.randn(1, *mine.shape, generator=generator_for(3, 0, 0, "noise"))
    theirs = pipeline("a red circle", control_video=frames, height=SIZE[0], width=SIZE[1], latents=noise,
                      num_inference_steps=STEPS, max_sequence_length=TEXT, output_type="latent").frames[0]
    assert (mine - theirs).abs().max() < 2e-5 * theirs.abs().max()
