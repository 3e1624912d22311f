"""Tests of the cache of latents and text embeddings: what it saves, that results are equal, and refusals."""
import shutil
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import train_video
from arguments import get_args
from common.errors import DataError
from engine.text_encoder import FrozenT5Embedder
from tests.test_train_video import make_clips
from training.data.cache_files import Part, Rows, completed
from training.data.encoders import weights_digest
from training.data.sources import read_sources
from vae_modules.autoencoder import VideoAutoencoderInferenceWrapper

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, 3, 0)
    return folder


@pytest.fixture(scope="module")
def arguments(small_model, clips, tmp_path_factory):
    """A function that returns the arguments of a run on the clips, checked as training checks them."""
    root = tmp_path_factory.mktemp("run")
    path = root / "train.yaml"
    OmegaConf.save({
        "args": {"seed": 5, "train_data": [str(clips)], "train_iters": 4, "latent_cache": str(root / "cache"),
                 "save": str(root / "save"), "device": "cpu"},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}},
    }, path)

    def read(model="t2v", *changes):
        args = get_args(["--base", str(small_model / f"{model}.yaml"), str(path), *changes])
        train_video.check_settings(args)
        return args
    return read


@pytest.fixture(scope="module")
def made(arguments):
    return read_sources(arguments()), read_sources(arguments("i2v"))


def refuse_to_build(monkeypatch):
    """Make building an encoder fail, except on the meta device, where configurations are compared with checkpoints."""
    for kind in (FrozenT5Embedder, VideoAutoencoderInferenceWrapper):
        def refuse(self, *args, build=kind.__init__, **kwargs):
            assert torch.get_default_device().type == "meta", f"{type(self).__name__} was built"
            build(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", refuse)


@pytest.mark.parametrize("model", ["t2v", "i2v"])
def test_a_complete_cache_needs_neither_text_encoder_nor_vae(model, arguments, made, monkeypatch):
    args = arguments(model)
    whole = train_video.build_engine(args, fresh=True)  # with text encoder and autoencoder
    refuse_to_build(monkeypatch)
    sources = read_sources(args)
    lean = train_video.build_engine(args, fresh=True, text=sources.text)
    assert {name.split(".")[0] for name in lean.state_dict()} == {"model"}
    losses = []
    for engine in (whole, lean):
        torch.manual_seed(3)
        losses.append(engine.shared_step(sources.train[0].batch(torch.tensor([2, 0])))[0])
    torch.testing.assert_close(*losses, atol=1e-6, rtol=0)
    texts = ["a red circle", "a blue square moves left"]
    torch.testing.assert_close(whole.conditioner.embedders[0](texts), lean.conditioner.embedders[0](texts))
    assert sources.train[0].batch(torch.tensor([1]))["txt"] == ["a red circle"]


def test_latents_of_the_cache_are_those_of_the_vae(arguments, made, clips):
    args = arguments()
    engine = train_video.build_engine(args, fresh=True)
    live = read_sources(arguments("t2v", "args.latent_cache=null")).train[0]
    video = live.batch(torch.tensor([0, 1]))["mp4"]
    moments = engine.first_stage_model.encode(video.transpose(1, 2), unregularized=True)
    torch.testing.assert_close(made[0].train[0].latents.moments.take(torch.tensor([0, 1])).float(), moments, atol=2e-3,
                               rtol=1e-3)
    assert video.shape == (2, 17, 3, 32, 32)


def test_a_cache_made_otherwise_is_refused_with_what_differs(arguments, made, small_model, clips, tmp_path):
    def refused(match, *changes):
        with pytest.raises(DataError, match=match):
            read_sources(arguments("t2v", *changes))

    refused(r"another video size \(\[32, 32\], not \[32, 16\]\); delete the folder, or set args.latent_cache",
            "data.params.video_size=[32,16]")
    refused(r"another frames \(17, not 9\), fps \(8, not 4\)", "data.params.max_num_frames=9", "data.params.fps=4")
    refused(r"another encoder, precision \(None, not bfloat16\)", "deepspeed.bf16.enabled=true")
    refused(r"encoding \(None, not in chunks\)", "args.vae_encode_in_chunks=true")

    other = tmp_path / "clips"
    shutil.copytree(clips, other)
    (other / "labels" / "0.txt").write_text("another caption")
    refused("another clips; delete", f"args.train_data=[{other}]")

    t5 = tmp_path / "t5"
    shutil.copytree(small_model / "t5", t5)
    with open(t5 / "model.safetensors", "rb+") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    refused("another text encoder; delete", f"model.conditioner_config.params.emb_models.0.params.model_dir={t5}")

    weights = torch.load(small_model / "3d-vae.pt")["state_dict"]
    weights["encoder.conv_in.conv.bias"] += 1
    torch.save({"state_dict": weights}, tmp_path / "vae.pt")
    refused("another encoder; delete", f"model.first_stage_config.params.ckpt_path={tmp_path / 'vae.pt'}")


def test_image_to_video_with_other_noise_is_refused(arguments, made):
    with pytest.raises(DataError, match=r"another first frame noise \(.*, 4, 5\], not .*, 2, 5\]\)"):
        read_sources(arguments("i2v", "args.first_frame_variants=2"))


def test_rows_lie_in_several_files():
    rows = Rows([torch.arange(3.0)[:, None], torch.arange(3.0, 5.0)[:, None], torch.full((1, 1), 5.0)])
    assert len(rows) == 6 and rows.take(torch.tensor([5, 0, 3, 2])).flatten().tolist() == [5, 0, 3, 2]


def test_values_that_are_not_finite_are_refused_and_interrupted_caches_completed(tmp_path):
    calls = []

    def encode(numbers):
        calls.append(list(numbers))
        return [n for n in numbers if n != 1], torch.tensor([float(n) for n in numbers if n != 1])

    part = Part("numbers", "values", {"made of": "numbers"}, 300, encode)
    rows, index = completed(tmp_path, part)
    assert index == [n for n in range(300) if n != 1] and rows.row(298) == 299
    (tmp_path / "numbers-00001.safetensors").unlink()
    assert completed(tmp_path, part)[1] == index
    assert [len(call) for call in calls] == [256, 44, 44]
    with pytest.raises(DataError, match="broken for cache .* not finite"):
        completed(tmp_path, SimpleNamespace(name="broken", values="values", description={}, items=1,
                                            encode=lambda numbers: ([0], torch.tensor([float("nan")]))))
    assert not (tmp_path / "broken-00000.safetensors").exists()


def test_an_encoder_is_known_by_its_values_in_the_runs_dtype():
    weights = {"conv.weight": torch.tensor([1.0, -0.0, 3.0])}
    known = weights_digest(weights, torch.bfloat16)
    assert weights_digest({"conv.weight": torch.tensor([1.0, 0.0, 3.0])}, torch.bfloat16) == known
    assert weights_digest({"conv.weight": torch.tensor([1.001, 0.0, 3.0])}, torch.bfloat16) == known
    assert weights_digest({"conv.weight": torch.tensor([1.001, 0.0, 3.0])}, torch.float32) != known
    assert weights_digest({"conv.bias": weights["conv.weight"]}, torch.bfloat16) != known
