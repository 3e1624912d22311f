"""Tests of fine-tuning every released structure, whole and by LoRA, from clips to a sampled video."""
from collections import defaultdict

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import sample_video
import train_video
from configuration.targets import instantiate_from_config
from diffusion_video import OFS
from dit_video_concat import DiffusionTransformer
from media.clips import ClipFormat, read_clip
from tests.dit_models import config as network_config
from tests.random_model import TEXT_LENGTH, TEXT_WIDTH, model_config
from tests.released_structures import STRUCTURES
from tests.test_train_video import make_clips
from weights.checkpoint import NETWORK_PREFIX, read_state_dict
from weights.lora import read_lora
from weights.lora_names import is_matrix

pytestmark = pytest.mark.slow

LORA = {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 2, "lora_alpha": 2}}
SIZES = dict(num_frames=17, latent_width=4, latent_height=4)
CHANNELS, LATENTS = 4, 5  # latent frames of 17 frames; patches of two in time add one in front


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("structures")
    make_clips(root / "clips", 3, 0)
    Image.new("RGB", (32, 32), "red").save(root / "image.png")
    (root / "text.txt").write_text("a red circle\n")
    (root / "image.txt").write_text("a red circle@@image.png\n")
    OmegaConf.save({
        "args": {"seed": 5, "train_data": [str(root / "clips")], "train_iters": 2, "ema_decay": 0, "device": "cpu"},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1,
                      "zero_optimization": {"stage": 1},
                      "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "weight_decay": 0}}},
    }, root / "full.yaml")
    lora = {"not_trainable_prefixes": ["all"], "network_config": {"params": {"modules": {"lora_config": LORA}}}}
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(root / "full.yaml"), {"model": lora}), root / "lora.yaml")
    return root


def write_structure(root, name, small_model):
    """Write the whole small model with the transformer of a structure; return the configuration's path."""
    model = model_config(small_model / "t5", small_model / "3d-vae.pt", image="i2v" in name)
    network = OmegaConf.create(network_config(**STRUCTURES[name] | SIZES))
    network.params.modules.pos_embed_config.params.text_length = TEXT_LENGTH
    network.params.modules.patch_embed_config.params.text_hidden_size = TEXT_WIDTH
    torch.manual_seed(6)
    built = instantiate_from_config(network)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save({NETWORK_PREFIX + key: value for key, value in built.state_dict().items()}, root / f"{name}.pt")
    OmegaConf.save({"args": {"load": str(root / f"{name}.pt"), "latent_channels": CHANNELS,
                             "sampling_image_size": [32, 32]}, "model": model | {"network_config": network}},
                   root / f"{name}.yaml")
    return root / f"{name}.yaml"


@pytest.fixture
def seen(monkeypatch):
    """The inputs of the transformer in each forward pass."""
    given = defaultdict(list)
    forward = DiffusionTransformer.forward

    def watched(self, x, *rest, ofs=None, **more):
        given["shape"].append(tuple(x.shape))
        given["image"].append(x[:, :, CHANNELS:].detach())
        given["ofs"].append(None if ofs is None else ofs.tolist())
        return forward(self, x, *rest, ofs=ofs, **more)

    monkeypatch.setattr(DiffusionTransformer, "forward", watched)
    return given


def assert_given(seen, name):
    frames = LATENTS + 1 if "1.5" in name else LATENTS
    channels = 2 * CHANNELS if "i2v" in name else CHANNELS
    assert {shape[1:] for shape in seen["shape"]} == {(frames, channels, 4, 4)}
    assert all(ofs == ([OFS] if name == "1.5_i2v" else None) for ofs in seen["ofs"])
    for image in seen["image"] if "i2v" in name else ():
        assert image[:, 0].abs().amax(dim=(1, 2, 3)).min() > 0 and not image[:, 1:].any()
    seen.clear()


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_clips_become_a_checkpoint_that_makes_videos(name, kind, folder, small_model, seen, tmp_path):
    model = write_structure(tmp_path, name, small_model)
    train_video.train_video(["--base", str(model), str(folder / f"{kind}.yaml"), f"args.save={tmp_path / 'run'}"])
    assert len(seen["shape"]) == 2
    assert_given(seen, name)
    before = read_state_dict(tmp_path / f"{name}.pt")
    after = read_state_dict(tmp_path / "run")
    if kind == "full":
        assert after.keys() == before.keys()
        same = [key for key in before if torch.equal(before[key], after[key])]
        assert all(key.endswith("pos_embed.pos_embedding") for key in same), same
        assert same == ([NETWORK_PREFIX + "mixins.pos_embed.pos_embedding"] if name == "2b" else [])
    else:
        assert all(is_matrix(key.removeprefix(NETWORK_PREFIX)) for key in after)
        assert all(value.any() for key, value in read_lora(tmp_path / "run").matrices.items())
    trained = "args.load_lora" if kind == "lora" else "args.load"
    prompts = folder / ("image.txt" if "i2v" in name else "text.txt")
    assert sample_video.main(["--base", str(model), "args.device=cpu", f"{trained}={tmp_path / 'run'}",
                              f"args.input_file={prompts}", f"args.output_dir={tmp_path / 'out'}"]) == 0
    assert_given(seen, name)
    (video,) = (tmp_path / "out").rglob("*.mp4")
    frames, _ = read_clip(str(video), ClipFormat((32, 32), 8, 17))
    assert frames.shape == (17, 3, 32, 32)
