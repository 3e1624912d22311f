"""Tests of the training keys: each has its effect, or is refused with a replacement."""
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import train_video
from arguments import get_args
from common.console import run
from common.errors import ConfigError
from tests.test_data_video import ramp, write_video
from tests.test_train_video import records
from tests.training.data.test_cache import refuse_to_build
from training.data import sources
from training.metrics import start_wandb
from training.samples import write_samples

SIZES = {"wide": (16, 32), "tall": (32, 16)}  # training sizes; the files are twice as large


@pytest.fixture(scope="module")
def command(small_model, tmp_path_factory):
    """A function that returns the command line of a run on wide, tall, long and short clips."""
    root = tmp_path_factory.mktemp("keys")
    for name, size in SIZES.items():
        for frames in (9, 17):
            for i in range(2):
                write_video(root / "clips" / "videos" / f"{name}_{frames}_{i}.mp4", ramp(frames),
                            size=(2 * size[0], 2 * size[1]))
    path = root / "train.yaml"
    OmegaConf.save({
        "args": {"seed": 5, "train_data": [str(root / "clips")], "train_iters": 8, "device": "cpu", "log_interval": 4,
                 "load": str(small_model / "t2v"), "valid_data": [str(root / "clips")], "eval_interval": 8,
                 "eval_iters": 4},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": list(SIZES.values()), "fps": 8, "max_num_frames": [17, 9],
                            "allow_no_captions": True}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1,
                      "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.0}}},
    }, path)
    return lambda save, *extra: ["--base", str(small_model / "t2v.yaml"), str(path), f"args.save={save}", *extra]


def checked(argv):
    args = get_args(argv)
    train_video.check_settings(args)
    return args


@pytest.fixture
def seen(monkeypatch):
    """The shapes of the batches that training computes."""
    shapes, step = [], train_video.DiffusionEngine.shared_step

    def shared_step(self, batch):
        shapes.append(tuple(batch["mp4"].shape))
        return step(self, batch)

    monkeypatch.setattr(train_video.DiffusionEngine, "shared_step", shared_step)
    return shapes


@pytest.mark.slow
def test_buckets_train_live_with_threads_and_from_a_cache_alike(command, seen, tmp_path):
    train_video.train_video(command(tmp_path / "live", "args.num_workers=2"))
    live, cached = list(seen), f"args.latent_cache={tmp_path / 'cache'}"
    seen.clear()
    train_video.train_video(command(tmp_path / "cached", cached, "args.num_workers=2"))
    assert sorted(set(live)) == sorted((2, frames, 3, *size) for frames in (9, 17) for size in SIZES.values())
    assert seen == [(2, (frames - 1) // 4 + 1, 4, height // 8, width // 8) for _, frames, _, height, width in live]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()) == [
        "16x32x17", "16x32x9", "32x16x17", "32x16x9", "text"]
    for name in ("live", "cached"):
        assert [r["step"] for r in records(tmp_path / name) if "valid_loss" in r] == [8]
    (tmp_path / "cached" / "latest").write_text("8")
    with pytest.raises(ConfigError, match=r"data.params.max_num_frames from \[17, 9\] to 9"):
        train_video.train_video(command(tmp_path / "cached", cached, "--resume", "data.params.max_num_frames=9"))


@pytest.mark.slow
def test_wandb_gets_what_the_log_gets(command, tmp_path, monkeypatch):
    class Run:
        logged, finished = [], False

        def log(self, record, step):
            self.logged.append({"step": step, **record})

        def finish(self):
            Run.finished = True

    started = []
    stand_in = SimpleNamespace(init=lambda **given: started.append(given) or Run(),
                               errors=SimpleNamespace(Error=OSError))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    argv = command(tmp_path, "--wandb", "--wandb-project-name", "shapes", "--experiment-name", "one",
                   "args.train_iters=4", "args.eval_interval=null", "data.params.max_num_frames=9",
                   f"args.latent_cache={tmp_path / 'cache'}")
    train_video.train_video(argv)
    assert Run.logged == records(tmp_path) and Run.logged[-1]["step"] == 4 and Run.finished
    assert (started[0]["project"], started[0]["name"], started[0]["resume"]) == ("shapes", "one", "allow")
    assert started[0]["config"]["data"]["params"]["fps"] == 8
    train_video.train_video([*argv, "--resume", "args.train_iters=5"])
    again = command(tmp_path / "other", *argv[len(command(tmp_path)):])
    train_video.train_video(again)
    assert started[1]["id"] == started[0]["id"] != started[2]["id"], "a new run is no other's, a resumed one its own"

    def refused(**given):
        raise OSError("no API key")

    monkeypatch.setattr(stand_in, "init", refused)
    with pytest.raises(ConfigError, match="args.wandb: no API key; run `wandb login`, or set WANDB_MODE=offline"):
        start_wandb(checked(argv).training, checked(argv).config)


@pytest.mark.slow
def test_the_warm_up_bounds_steps_and_resuming_without_random_states_draws_anew(command, small_model, tmp_path):
    common = (f"args.latent_cache={tmp_path / 'cache'}", "args.train_iters=2", "args.save_interval=1",
              "args.eval_interval=null", "data.params.video_size=[16,32]", "data.params.max_num_frames=9",
              "args.warmup_iters=10")
    train_video.train_video(command(tmp_path / "run", *common))

    def weights(step):
        state = torch.load(tmp_path / "run" / "training" / f"{step}_rank_00.pt", weights_only=True)
        return state["network"]["transformer.layers.0.attention.dense.weight"]

    before = torch.load(small_model / "t2v" / "7" / "mp_rank_00_model_states.pt")["module"][
        "model.diffusion_model.transformer.layers.0.attention.dense.weight"]
    assert (weights(1) - before).abs().max().item() == pytest.approx(1e-4, rel=1e-2)  # Adam's first step
    uninterrupted = weights(2)
    (tmp_path / "run" / "latest").write_text("1")
    train_video.train_video(command(tmp_path / "run", *common, "--resume", "--no-load-rng"))
    assert not torch.equal(weights(2), uninterrupted)
    (tmp_path / "run" / "latest").write_text("1")
    train_video.train_video(command(tmp_path / "run", *common, "--resume"))
    assert torch.equal(weights(2), uninterrupted)


@pytest.mark.slow
def test_samples_may_stay_latents_which_needs_no_vae(command, tmp_path, monkeypatch):
    argv = command(tmp_path, "args.sample_interval=8", "args.only_log_video_latents=true", "args.sample_count=1",
                   f"args.latent_cache={tmp_path / 'cache'}", "data.params.video_size=[32,32]",
                   "data.params.max_num_frames=9")
    args = checked(argv)
    sources.read_sources(args)
    refuse_to_build(monkeypatch)
    found = sources.read_sources(args)
    engine = train_video.build_engine(args, fresh=True, text=found.text)
    write_samples(engine, sources.sample_request(args, found.shown), tmp_path / "samples")
    assert load_file(tmp_path / "samples" / "0" / "latents.safetensors")["latents"].shape == (3, 4, 4, 4)
    assert sorted(path.name for path in (tmp_path / "samples" / "0").iterdir()) == ["latents.safetensors", "prompt.txt"]


@pytest.mark.slow
def test_tiles_and_chunks_hold_where_clips_are_encoded_during_training(command, tmp_path):
    args = checked(command(tmp_path, "args.vae_tiling=true", "args.vae_encode_in_chunks=true"))
    autoencoder = train_video.build_engine(args, fresh=True).first_stage_model
    assert autoencoder.tiling is not None and autoencoder.encode_in_chunks


@pytest.mark.slow
@pytest.mark.parametrize("recompute, calls", [("false", 1), ("true", 2)])
def test_activations_are_computed_again_on_request(recompute, calls, command, tmp_path):
    args = checked(command(tmp_path, f"args.checkpoint_activations={recompute}"))
    engine = train_video.build_engine(args, fresh=True).train()
    counted = []
    engine.network.transformer.layers[1].mlp.register_forward_hook(lambda *_: counted.append(1))
    loss, _ = engine.shared_step({"mp4": torch.zeros(1, 9, 3, 16, 32), "txt": ["a red circle"]})
    loss.backward()
    assert len(counted) == calls


@pytest.mark.slow
def test_a_start_from_part_of_a_model_keeps_the_rest(command, small_model, tmp_path):
    content = torch.load(small_model / "t2v" / "7" / "mp_rank_00_model_states.pt")
    missing = "model.diffusion_model.mixins.final_layer.linear.bias"
    del content["module"][missing]
    torch.save(content, tmp_path / "part.pt")
    argv = command(tmp_path, f"args.load={tmp_path / 'part.pt'}")
    network = train_video.build_engine(checked([*argv, "--force-train"]), fresh=True).network.state_dict()
    for name, value in content["module"].items():
        assert torch.equal(network[name.removeprefix("model.diffusion_model.")], value)
    with pytest.raises(Exception, match="missing: mixins.final_layer.linear.bias"):
        train_video.build_engine(checked(argv), fresh=True)


@pytest.mark.slow
@pytest.mark.parametrize("changes, said", [
    (["args.split=0.9,0.1,0"], "args.split is 0.9,0.1,0; clips cannot be held out by fraction; .* set args.valid_data"),
    (["model.lr_scale=2"], "model.lr_scale: super-resolution .* not supported; leave it out"),
    (["args.model_parallel_size=2"], "args.model_parallel_size is 2; .*optimization.stage: 3 instead; set it to 1"),
    (["args.sample_interval=2", "deepspeed.zero_optimization.stage=3"], "args.sample_interval: no samples are made"),
    (["data.target=data_video.VideoDataset", "data.params.video_size=[16,32]", "data.params.max_num_frames=9"],
     "data.target is VideoDataset; training needs data_video.SFTDataset"),
    (["data.params.video_size=[64,64]"], r"data.params.video_size \[64, 64\] with max_num_frames 17: .* exceeds"),
    (["data.params.video_size=[[32,32],[32,20]]"], r"\[32, 20\] with .*: height and width must be multiples of 8"),
    (["data.params.max_num_frames=[17,33]"], r"with max_num_frames 33: video of .* exceeds"),
    (["data.params.max_num_frames=13", "args.sample_interval=2"],
     "max_num_frames is 13; args.sample_interval has videos of that length decoded, which takes 8k . 1 frames, such"),
    (["deepspeed.zero_optimization.stage3_param_persistence_threshold=9"], "has no effect: every weight is divided"),
    (["args.load=null", "args.grow_input=true"], "args.grow_input is about the weights of args.load, which is not set"),
    (["deepspeed.fp16.initial_scale_power=1000"], "deepspeed.fp16.initial_scale_power is 1000; it must be"),
    (["deepspeed.zero_optimization.stage=4"], "stage is 4; it must be 0, 1, 2 or 3"),
    (["deepspeed.optimizer.params.eps=0"], "deepspeed.optimizer.params.eps is 0; it must be a number above 0"),
    (["data.params.max_num_frames=null"], "data.params.max_num_frames")])
def test_what_is_not_supported_is_one_line(changes, said, command, tmp_path, capsys):
    with pytest.raises(ConfigError, match=said):
        checked(command(tmp_path, *changes))
    assert run(train_video.train_video, command(tmp_path, *changes)) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_keys_of_released_files_are_accepted(command, tmp_path):
    released = {"no_load_rng": True, "split": "1,0,0", "num_workers": 8, "force_train": True,
                "only_log_video_latents": True, "checkpoint_activations": True, "mode": "finetune",
                "model_parallel_size": 1}
    args = checked([*command(tmp_path), *(f"args.{key}={json.dumps(value)}" for key, value in released.items())])
    assert args.model_config.network_config.params.transformer_args.checkpoint_activations
