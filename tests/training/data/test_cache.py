"""Tests of the cache of latents and text embeddings: what it saves, that results are equal, and refusals."""
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError

import train_video
from arguments import get_args
from common.errors import ConfigError, DataError
from engine.text_encoder import FrozenT5Embedder
from tests.test_data_video import ramp, write_video
from tests.test_train_video import make_clips
from training.data.cache_files import Part, completed
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
    stored = torch.stack([clip.moments for clip in made[0].train[0].clips[:2]]).float()
    torch.testing.assert_close(stored, moments, atol=2e-3, rtol=1e-3)
    assert video.shape == (2, 17, 3, 32, 32)


def test_control_clips_are_cached_by_clip_and_kind_and_train_as_live_ones(arguments):
    def controlled(*changes):
        return arguments("i2v", "model.noised_image_input=false", "model.control_input=true", *changes)

    args = controlled("data.params.control=edges")
    cached, index = read_sources(args).train[0].batch(torch.tensor([0, 2])), torch.tensor([0, 2])
    live = read_sources(controlled("data.params.control=edges", "args.latent_cache=null")).train[0].batch(index)
    engine = train_video.build_engine(args, fresh=True)
    assert cached["control_latents"].shape == cached["mp4"].shape == (2, 5, 4, 4, 4)
    torch.testing.assert_close(engine._control(cached), engine._control(live), atol=2e-3, rtol=2e-3)
    other = read_sources(controlled("data.params.control=mask")).train[0].batch(index)["control_latents"]
    assert (other - cached["control_latents"]).abs().max() > 1e-2
    assert "control_latents" not in read_sources(arguments()).train[0].batch(index)


def test_a_model_with_control_input_and_its_data_go_together(arguments):
    with pytest.raises(ConfigError, match="data.params.control is missing: .* set it to one of mask, edges, folder"):
        arguments("i2v", "model.noised_image_input=false", "model.control_input=true")
    with pytest.raises(ConfigError, match="data.params.control is mask, but the model takes no control clips"):
        arguments("t2v", "data.params.control=mask")


def test_a_cache_made_otherwise_is_refused_with_what_differs(arguments, made, small_model, clips, tmp_path):
    def refused(match, *changes):
        with pytest.raises(DataError, match=match):
            read_sources(arguments("t2v", *changes))

    refused(r"another fps \(8, not 4\), skipped frames \(0, not 1\); delete the folder, or set args.latent_cache",
            "data.params.fps=4", "data.params.skip_frms_num=1")
    refused(r"another encoder, precision \(None, not bfloat16\)", "deepspeed.bf16.enabled=true")
    refused(r"encoding \(None, not in chunks\)", "args.vae_encode_in_chunks=true")

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


def stored(sources):
    """Return what the cache holds of each clip, by its caption."""
    return {clip.caption: clip for bucket in sources.train for clip in bucket.clips}


def test_a_clip_keeps_its_own_latents_whatever_becomes_of_the_others(arguments, tmp_path):
    make_clips(tmp_path / "clips", 4, 7)
    videos, labels = tmp_path / "clips" / "videos", tmp_path / "clips" / "labels"
    for number in range(4):
        (labels / f"{number}.txt").write_text(f"a circle {number}")
    data = f"args.train_data=[{tmp_path / 'clips'}]"

    def read(model, cache):
        return stored(read_sources(arguments(model, data, f"args.latent_cache={tmp_path / cache}")))

    def same(one, other):  # up to rounding, since clips are encoded in other batches
        return all(torch.allclose(getattr(one, name).float(), getattr(other, name).float(), atol=2e-3, rtol=1e-3)
                   for name in ("moments", "image"))

    whole = (videos / "1.mp4").read_bytes()
    (videos / "1.mp4").write_bytes(b"not there yet")
    assert set(read("t2v", "shared")) == {"a circle 0", "a circle 2", "a circle 3"}
    (videos / "1.mp4").write_bytes(whole)
    shared, fresh = read("i2v", "shared"), read("i2v", "fresh")
    assert len(shared) == 4 and all(same(shared[one], fresh[other]) == (one == other)
                                    for one in fresh for other in fresh)

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.safetensors")}
    (videos / "0.mp4").write_bytes((videos / "2.mp4").read_bytes())  # a clip is replaced, another renamed or removed
    (videos / "2.mp4").rename(videos / "4.mp4")
    (labels / "2.txt").rename(labels / "4.txt")
    (videos / "3.mp4").unlink()
    again = read("i2v", "shared")
    assert set(again) == {"a circle 0", "a circle 1", "a circle 2"}
    assert same(again["a circle 0"], shared["a circle 2"]) and same(again["a circle 2"], shared["a circle 2"])
    assert same(again["a circle 1"], shared["a circle 1"])
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.safetensors")}
    (labels / "1.txt").write_text("a square")
    assert set(read("i2v", "shared")) == {"a circle 0", "a square", "a circle 2"}


def test_short_clips_do_not_count_where_they_stand_still(arguments, tmp_path):
    make_clips(tmp_path, 1, 7)
    write_video(tmp_path / "videos" / "1.mp4", ramp(7), size=(32, 32))
    (tmp_path / "labels" / "1.txt").write_text("a circle")
    counted = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]  # seven frames: one, four, and two that fill no latent frame
    for cache in ("null", tmp_path / "cache"):
        data = (f"args.train_data=[{tmp_path}]", f"args.latent_cache={cache}")
        (bucket,) = read_sources(arguments("t2v", *data)).train
        assert bucket.batch(torch.tensor([0, 1]))["counted"].tolist() == counted
        assert "counted" not in bucket.batch(torch.tensor([0, 0]))
        (bucket,) = read_sources(arguments("t2v", *data, "data.params.short_clips=repeat")).train
        assert "counted" not in bucket.batch(torch.tensor([0, 1]))
        (bucket,) = read_sources(arguments("t2v", *data, "data.params.short_clips=skip")).train
        assert len(bucket) == 1


def test_a_cache_of_an_earlier_version_is_refused(arguments, tmp_path):
    (tmp_path / "train-0").mkdir()
    with pytest.raises(DataError, match="is of an earlier version, .*; delete the folder, or set args.latent_cache"):
        read_sources(arguments("t2v", f"args.latent_cache={tmp_path}"))


def test_image_to_video_with_other_noise_is_refused(arguments, made):
    with pytest.raises(DataError, match=r"another first frame noise \(.*, 4, 5\], not .*, 2, 5\]\)"):
        read_sources(arguments("i2v", "args.first_frame_variants=2"))


def test_last_frames_are_cached_beside_first_ones(arguments, made):
    args = arguments("i2v", "args.last_frame_rate=0.5")
    batch = read_sources(args).train[0].batch(torch.tensor([1, 0]))
    assert batch["last_latents"].shape == batch["image_latents"].shape
    assert "last_latents" not in made[1].train[0].batch(torch.tensor([1, 0]))
    engine = train_video.build_engine(args, fresh=True)
    assert engine.last_frame_rate == 0.5 and torch.isfinite(engine.shared_step(batch)[0])


@pytest.mark.parametrize("model, change, says", [
    ("t2v", "args.last_frame_rate=0.5", "only an image-to-video model"),
    ("i2v", "args.last_frame_rate=2", "last_frame_rate")])
def test_wrong_uses_of_last_frames_are_refused(arguments, model, change, says):
    with pytest.raises(ConfigError, match=says):
        arguments(model, change)


def key(number):
    return f"{number:064x}"


def test_values_that_are_not_finite_are_refused_and_interrupted_caches_completed(tmp_path):
    calls = []

    def encode(keys):
        calls.append(list(keys))
        kept = [given for given in keys if given not in unreadable]
        return kept, torch.tensor([float(int(given, 16)) for given in kept]) if kept else None

    unreadable = {key(1)}
    part = Part("numbers", "values", {"made of": "numbers"}, encode)
    stored = completed(tmp_path, part, list(map(key, range(300))))
    assert {int(given, 16): value.item() for given, value in stored.items()} == {n: n for n in range(300) if n != 1}
    assert [len(call) for call in calls] == [256, 44]
    unreadable.clear()  # the clip can be read now: it is added, and belongs to itself alone
    assert completed(tmp_path, part, [key(299), key(1)])[key(1)] == 1 and calls[2:] == [[key(1)]]
    min(tmp_path.glob("numbers-*"), key=lambda path: path.stat().st_size).unlink()
    (tmp_path / ".numbers-0.77.partial.safetensors").write_bytes(b"of a run that was killed")
    again = completed(tmp_path, part, list(map(key, range(300))))
    assert all(again[key(n)] == n for n in range(300)) and len(calls[3]) < 300
    assert not list(tmp_path.glob(".*.partial*"))
    with pytest.raises(DataError, match="broken for cache .* not finite"):
        completed(tmp_path, Part("broken", "values", {}, lambda keys: (keys, torch.tensor([float("nan")]))), [key(0)])
    assert not list(tmp_path.glob("broken-*"))


def test_files_that_cannot_be_read_or_written_are_one_line(tmp_path, monkeypatch):
    part = Part("numbers", "values", {}, lambda keys: (list(keys), torch.ones(len(keys))))
    completed(tmp_path, part, [key(0)])
    (file,) = tmp_path.glob("numbers-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:60])
    with pytest.raises(DataError, match="of the cache is damaged or of an earlier version; delete it"):
        completed(tmp_path, part, [key(0)])
    file.write_bytes(whole)

    def full(tensors, path):
        Path(path).write_bytes(whole[:60])
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DataError, match="cannot be written .*No space left on device"):
        completed(tmp_path, part, [key(1)])
    assert [path for path in tmp_path.iterdir() if path.suffix == ".safetensors"] == [file]
    with sole_use_of_another(tmp_path), pytest.raises(DataError, match="is in use by another run"):
        completed(tmp_path, part, [key(1)])
    assert completed(tmp_path, part, [key(0)])[key(0)] == 1  # to read is free


@contextmanager
def sole_use_of_another(folder):
    """Context manager in which another process holds a folder."""
    code = ("import sys, time; sys.path.insert(0, 'sat'); from common.files import sole_use\n"
            f"with sole_use({str(folder)!r}): print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        yield
        other.kill()


def test_an_encoder_is_known_by_its_values_in_the_runs_dtype():
    weights = {"conv.weight": torch.tensor([1.0, -0.0, 3.0])}
    known = weights_digest(weights, torch.bfloat16)
    assert weights_digest({"conv.weight": torch.tensor([1.0, 0.0, 3.0])}, torch.bfloat16) == known
    assert weights_digest({"conv.weight": torch.tensor([1.001, 0.0, 3.0])}, torch.bfloat16) == known
    assert weights_digest({"conv.weight": torch.tensor([1.001, 0.0, 3.0])}, torch.float32) != known
    assert weights_digest({"conv.bias": weights["conv.weight"]}, torch.bfloat16) != known
