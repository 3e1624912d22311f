"""Tests of training from a folder of clips to a checkpoint: it learns, resumes exactly, and reports errors."""
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import train_video
from common.console import run
from common.errors import ConfigError, NumericalError
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from media.videos import write_video
from tests.random_model import write_model
from tests.training.two_processes import train_all
from weights.checkpoint import NETWORK_PREFIX, read_state_dict, save_checkpoint
from weights.network import load_network
from weights.sources import materialize

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def make_clips(folder, count, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 255, (17, 4, 4, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        write_video(folder / "videos" / f"{i}.mp4", [pixels], 8)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{i}.txt").write_text("a red circle" if i % 2 else "a blue square moves left")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    make_clips(root / "train", 5, 0)
    make_clips(root / "valid", 2, 1)
    (root / "train" / "videos" / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def recipe(clips):
    """A function that writes a training configuration and returns the command line of a run."""
    path = clips / "train.yaml"
    OmegaConf.save({
        "args": {"load": None, "seed": 5, "train_data": [str(clips / "train")], "train_iters": 6, "save_interval": 3,
                 "log_interval": 3, "warmup_iters": 2, "final_lr_share": 0.5, "ema_decay": 0.9},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0,
                      "zero_optimization": {"stage": 1}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
    }, path)

    def command(model, save, *extra):
        cache = clips / f"latents_{model.stem}"
        return ["--base", str(model), str(path), f"args.save={save}", f"args.latent_cache={cache}", "args.device=cpu",
                *extra]

    return command


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


MUON = ("deepspeed.optimizer.type=Muon", "deepspeed.zero_optimization.stage=0")


@pytest.mark.parametrize("model, changes", [("t2v", ()), ("i2v", MUON)])
def test_a_resumed_run_equals_an_uninterrupted_one(model, changes, small_model, recipe, tmp_path, caplog, monkeypatch):
    yaml = small_model / f"{model}.yaml"
    train_video.train_video(recipe(yaml, tmp_path / "whole", *changes))
    assert sum("cannot be read: broken.mp4" in r.message for r in caplog.records) == 1

    class Stopped(BaseException):
        pass

    def stop(self):
        if self.step == 4:
            raise Stopped
        return step(self)

    step = train_video.TransformerTrainer.train_step
    monkeypatch.setattr(train_video.TransformerTrainer, "train_step", stop)
    with pytest.raises(Stopped):
        train_video.train_video(recipe(yaml, tmp_path / "parts", *changes))
    monkeypatch.undo()
    assert (tmp_path / "parts" / "latest").read_text() == "3"
    train_video.train_video(recipe(yaml, tmp_path / "parts", *changes, "--resume"))
    whole, parts = (torch.load(tmp_path / name / "training" / "6_rank_00.pt", weights_only=True)
                    for name in ("whole", "parts"))
    assert whole["step"] == 6 and same(whole, parts)
    assert same(read_state_dict(tmp_path / "whole"), read_state_dict(tmp_path / "parts"))


def test_the_loss_falls_and_the_checkpoint_samples(small_model, recipe, clips, tmp_path):
    argv = recipe(small_model / "t2v.yaml", tmp_path, "args.train_iters=40", "args.log_interval=10",
                  "args.save_interval=40", "args.sample_interval=40", "args.sample_count=1", "args.eval_interval=20",
                  f"args.valid_data=[{clips / 'valid'}]", "args.ema_decay=0",
                  "deepspeed.optimizer.params.lr=5e-3", "deepspeed.train_micro_batch_size_per_gpu=4",
                  "model.scale_factor=3")  # latents far from unit variance, so that the loss falls quickly
    train_video.train_video(argv)
    log = records(tmp_path)
    losses = [r["loss"] for r in log if "loss" in r]
    assert losses[-1] < 0.8 * losses[0]
    assert [r["step"] for r in log if "valid_loss" in r] == [20, 40]
    assert any(key.startswith("loss_750_999") for r in log for key in r)
    assert (tmp_path / "samples" / "000040" / "0" / "000000.mp4").stat().st_size > 0
    args = train_video.get_args(argv)
    engine = DiffusionEngine(args.of_engine())
    load_network(engine.network, tmp_path)
    latest = torch.load(tmp_path / "training" / "40_rank_00.pt", weights_only=True)
    assert same(dict(engine.network.state_dict()), latest["network"])  # with decay 0 the average is the last weights


def test_the_norm_of_gradients_is_logged_with_zero_and_without(small_model, recipe, tmp_path):
    for stage in (0, 1):
        train_video.train_video(recipe(small_model / "t2v.yaml", tmp_path / str(stage), "args.train_iters=2",
                                       "args.log_interval=1", "deepspeed.gradient_accumulation_steps=2",
                                       f"deepspeed.zero_optimization.stage={stage}"))
    without, reduced = ([line["grad_norm"] for line in records(tmp_path / str(stage))] for stage in (0, 1))
    assert without == pytest.approx(reduced, rel=1e-4) and min(without) > 0


def test_two_processes_equal_one_with_twice_the_accumulation(small_model, recipe, tmp_path):
    uniform = "model.loss_fn_config.params.sigma_sampler_config.params.uniform_sampling=false"

    def command(name, stage, *changes):
        return recipe(small_model / "t2v.yaml", tmp_path / name, uniform, "args.train_iters=2",
                      f"deepspeed.zero_optimization.stage={stage}", *changes)

    train_video.train_video(command("one", 2, "deepspeed.gradient_accumulation_steps=2"))
    on_two_processes([(None, command("two", 2)), (None, command("divided", 3)), (1, command("stopped", 3)),
                      (None, command("stopped", 3, "--resume"))], tmp_path)
    expected = read_state_dict(tmp_path / "one")
    for name in ("two", "divided", "stopped"):
        found = read_state_dict(tmp_path / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}")
    assert same(read_state_dict(tmp_path / "divided"), read_state_dict(tmp_path / "stopped"))
    sizes = [(tmp_path / "two" / "training" / f"2_rank_0{rank}.pt").stat().st_size for rank in (0, 1)]
    assert sizes[1] < sizes[0] / 2  # what the processes share is stored once


DIVIDED = {"0": (), "2": ("deepspeed.zero_optimization.offload_optimizer={device: cpu}",), "3": (),
           "1 bf16": ("deepspeed.bf16.enabled=true", "deepspeed.data_types={grad_accum_dtype: fp32}"),
           "3 in groups": ("deepspeed.zero_optimization.sub_group_size=50000",)}


def test_a_run_goes_on_with_more_processes_and_with_fewer(small_model, recipe, tmp_path):
    def command(name, *more):
        cache = f"args.latent_cache={tmp_path / 'bf16'}" if "bf16" in name else None
        return recipe(small_model / "t2v.yaml", tmp_path / name, "args.train_iters=2", *DIVIDED[name], *more,
                      f"deepspeed.zero_optimization.stage={name[0]}", *([cache] if cache else []))

    def state(name, rank=0):
        return torch.load(tmp_path / name / "training" / f"1_rank_0{rank}.pt", weights_only=True)

    def resume_and_save(name, processes):
        run = [0, command(name, "--resume", f"deepspeed.gradient_accumulation_steps={2 // processes}")]
        return run if processes == 2 else train_all([run])

    for name in DIVIDED:
        train_all([[1, command(name, "deepspeed.gradient_accumulation_steps=2")]])
    before = {name: state(name) for name in DIVIDED}
    on_two_processes([resume_and_save(name, 2) for name in DIVIDED], tmp_path)
    for name in DIVIDED:
        parts = [state(name, rank)["optimizer"]["weights"] for rank in (0, 1)]
        sizes = [sum(weight.numel() for weight in weights) for weights in parts]
        whole = sum(weight.numel() for weight in before[name]["optimizer"]["weights"])
        assert sizes == [whole, whole] if name == "0" else whole <= sum(sizes) < 1.01 * whole, name
        resume_and_save(name, 1)
        assert same({**before[name], "settings": {}}, {**state(name), "settings": {}}), name


def on_two_processes(runs, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(free.getsockname()[1])}
    (folder / "runs.json").write_text(json.dumps(runs))
    words = [sys.executable, str(ROOT / "tests" / "training" / "two_processes.py"), str(folder / "runs.json")]
    workers = [subprocess.Popen(words, env=os.environ | group | {"RANK": rank, "LOCAL_RANK": rank}, cwd=folder)
               for rank in "01"]
    assert [worker.wait(timeout=500) for worker in workers] == [0, 0]


def test_a_start_takes_the_transformer_and_little_more_memory(tmp_path, peak_memory):
    config = OmegaConf.load(write_model(tmp_path))
    config.model.network_config.params.update({"hidden_size": 512, "num_attention_heads": 8, "num_layers": 4})
    with torch.device("meta"):
        network = instantiate_from_config(config.model.network_config)
    materialize(network, torch.bfloat16, "cpu")
    for value in network.state_dict().values():
        value.fill_(0.5)
    save_checkpoint(tmp_path / "wide", 1, {"module": {NETWORK_PREFIX + k: v for k, v in network.state_dict().items()}})
    config.args.update({"load": str(tmp_path / "wide"), "bf16": True, "device": "cpu"})
    OmegaConf.save(config, tmp_path / "wide.yaml")
    size = sum(value.nbytes for value in network.state_dict().values())
    assert 0.9 < peak_memory("start_training", "--base", tmp_path / "wide.yaml") / size < 1.15


def test_image_to_video_shares_the_cache_of_text_to_video(small_model, recipe, tmp_path):
    cache = tmp_path / "latents"
    for model in ("t2v", "i2v"):
        train_video.train_video(recipe(small_model / f"{model}.yaml", tmp_path / model, f"args.latent_cache={cache}",
                                       "args.train_iters=1"))
        if model == "t2v":
            made = {path: path.stat().st_mtime_ns for path in cache.rglob("*.*s*")}
    assert all(path.stat().st_mtime_ns == written for path, written in made.items())
    added = {path.name.partition("-")[0] for path in cache.rglob("*.*s*") if path not in made}
    assert added == {"images.json", "images"}


def test_a_changed_configuration_is_not_resumed(small_model, recipe, tmp_path):
    argv = recipe(small_model / "t2v.yaml", tmp_path, "args.train_iters=1")
    train_video.train_video(argv)
    with pytest.raises(ConfigError, match="holds the checkpoints of a run already"):
        train_video.train_video(argv)
    with pytest.raises(ConfigError, match="optimizer.params.lr from 0.001 to 0.5"):
        train_video.train_video([*argv, "--resume", "deepspeed.optimizer.params.lr=0.5"])


def test_a_loss_that_is_not_finite_stops_with_the_step(small_model, recipe, tmp_path):
    with pytest.raises(NumericalError, match=r"the loss is (nan|inf) at step \d"):
        train_video.train_video(recipe(small_model / "t2v.yaml", tmp_path, "deepspeed.optimizer.params.lr=1e30",
                                       "deepspeed.gradient_clipping=0"))


LORA = "model.network_config.params.modules.lora_config={target: network.lora.LoraMixin, params: {r: 2}}"
LEVELS = "model.loss_fn_config.params.sigma_sampler_config.params"


@pytest.mark.parametrize("words, says", [
    (["model.not_trainable_prefixes=[mixins]"], "no parameter's name begins with 'mixins'; the"),
    ([LORA], "a LoRA is trained alone; set"),
    (["model.loss_fn_config=null"], "model.loss_fn_config is missing"),
    ([f"{LEVELS}.num_idx=500"], "draws from another table of levels than model.denoiser_config"),
    ([f"{LEVELS}.discretization_config.params.shift_scale=2.0"], "draws from another table of levels")])
def test_what_would_train_something_else_is_refused(small_model, recipe, tmp_path, words, says):
    with pytest.raises(ConfigError, match=says):
        train_video.train_video(recipe(small_model / "t2v.yaml", tmp_path, *words))


def test_a_run_does_not_write_among_its_clips(small_model, recipe, clips):
    with pytest.raises(ConfigError, match="inside .* of args.train_data, so that samples would be taken for clips"):
        train_video.train_video(recipe(small_model / "t2v.yaml", clips / "train" / "videos" / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["null", "another"])
def test_other_weights_of_an_encoder_are_another_configuration(cache, small_model, recipe, tmp_path):
    first, later = ("null",) * 2 if cache == "null" else (tmp_path / "cache", tmp_path / "another")
    argv = recipe(small_model / "t2v.yaml", tmp_path / "run", f"args.latent_cache={first}", "args.train_iters=1",
                  "args.warmup_iters=0")
    train_video.train_video(argv)
    argv = [*argv, f"args.latent_cache={later}"]
    key = "model.first_stage_config.params.ckpt_path"
    moved = shutil.copy(OmegaConf.select(OmegaConf.load(small_model / "t2v.yaml"), key), tmp_path / "moved.pt")
    train_video.train_video([*argv, "--resume", f"{key}={moved}", "args.train_iters=2"])
    content = torch.load(moved, weights_only=True)
    weights = content.get("state_dict", content)
    name = next(name for name in weights if name.startswith("encoder"))
    weights[name] = weights[name] * 0.7
    torch.save(content, moved)
    with pytest.raises(ConfigError, match="weights of the autoencoder from .* to"):
        train_video.train_video([*argv, "--resume", f"{key}={moved}", "args.train_iters=3"])


def test_mistakes_are_one_line(small_model, recipe, tmp_path, capsys):
    argv = recipe(small_model / "t2v.yaml", tmp_path, "deepspeed.optimizer.type=SGD")
    assert run(train_video.train_video, argv) == 2
    assert "error: deepspeed.optimizer.type is 'SGD'; it must be AdamW" in capsys.readouterr().err
