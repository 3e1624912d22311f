"""Tests of training as a whole: steps of size zero change nothing, and resumed runs end like uninterrupted ones."""
import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

import train_video
from arguments import get_args
from common.errors import ConfigError
from data_video import clip_forms_of
from sample_video import sample_videos as sample_video
from tests.test_train_video import make_clips, same
from training.data.encoders import Encoders
from training.data.latent_cache import describe_form
from training.data.sources import read_sources
from weights.checkpoint import read_state_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(small_model, tmp_path_factory):
    """A function that returns the command line of a run of four steps, each with a checkpoint."""
    root = tmp_path_factory.mktemp("proofs")
    make_clips(root / "clips", 5, 0)
    path = root / "train.yaml"
    OmegaConf.save({
        "args": {"seed": 5, "train_data": [str(root / "clips")], "train_iters": 4, "save_interval": 1, "device": "cpu",
                 "keep_checkpoints": 9, "warmup_iters": 2, "ema_decay": 0.9},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0,
                      "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
    }, path)
    base = ["--base", str(small_model / "t2v.yaml"), str(path)]
    fill(root / "fp32", get_args([*base, f"args.latent_cache={root / 'fp32'}", f"args.save={root / 'unused'}"]), None)

    def command(save, *changes):
        precision = next((name for name in ("bf16", "fp16") if any(name in change for change in changes)), "fp32")
        cache = root / precision
        argv = [*base, f"args.save={save}", f"args.latent_cache={cache}", *changes]
        if not cache.exists():
            fill(cache, get_args(argv), root / "fp32")
        return argv
    return command


def fill(cache, args, full):
    """Fill a cache. Lower precisions take the latents of the `full` cache, because convolutions would take minutes."""
    train_video.check_settings(args)
    if full is not None:
        (form,) = clip_forms_of(args.data_config.params)
        shutil.copytree(full, cache, ignore=shutil.ignore_patterns("text*"))
        (cache / form.name / "clips.json").write_text(json.dumps(Encoders(args).describe_vae() | describe_form(form)))
    read_sources(args)


def kept(folder, step):
    return torch.load(folder / "training" / f"{step}_rank_00.pt", weights_only=True)


FP16 = ("deepspeed.fp16={enabled: true, initial_scale_power: 16, loss_scale_window: 1, hysteresis: 1}",
        "deepspeed.zero_optimization.stage=2")
CASES = {"zero 0": (), "zero 3": ("deepspeed.zero_optimization.stage=3",), "fp16": FP16,
         "bf16": ("deepspeed.bf16.enabled=true", "deepspeed.zero_optimization.stage=1")}


def weights(folder, step):
    return kept(folder, step)["network"]["transformer.layers.0.attention.dense.weight"]


@pytest.mark.parametrize("case", CASES)
def test_stopped_at_any_step_and_resumed_it_ends_the_same(case, command, tmp_path):
    train_video.train_video(command(tmp_path / "whole", *CASES[case]))
    final = kept(tmp_path / "whole", 4)
    assert final["clips"] == (5,) and not torch.equal(weights(tmp_path / "whole", 1), weights(tmp_path / "whole", 4))
    if case == "fp16":
        scales = [kept(tmp_path / "whole", step)["optimizer"]["loss_scale"]["cur_scale"] for step in range(1, 5)]
        assert len(set(scales)) > 2
    for step in (1, 3):
        parts = tmp_path / f"parts{step}"
        shutil.copytree(tmp_path / "whole", parts)
        for later in range(step + 1, 5):
            shutil.rmtree(parts / str(later))
            (parts / "training" / f"{later}_rank_00.pt").unlink()
        (parts / "latest").write_text(str(step))
        train_video.train_video(command(parts, *CASES[case], "--resume"))
        assert same(final, kept(parts, 4))
        assert same(read_state_dict(tmp_path / "whole"), read_state_dict(parts))


def test_without_a_learning_rate_the_video_stays_the_same(command, small_model, tmp_path):
    model = small_model / "t2v"
    train_video.train_video(command(tmp_path / "run", f"args.load={model}", "deepspeed.optimizer.params.lr=0.0",
                                    "args.train_iters=2", "deepspeed.zero_optimization.stage=3"))
    (tmp_path / "prompts.txt").write_text("a red circle moves left")
    videos = []
    for weights in (model, tmp_path / "run"):
        sample_video(["--base", str(small_model / "t2v.yaml"), "configs/inference.yaml", f"args.load={weights}",
                      "--seed=3", f"args.input_file={tmp_path / 'prompts.txt'}",
                      f"args.output_dir={tmp_path / weights.name}"])
        videos += [path.read_bytes() for path in (tmp_path / weights.name).rglob("*.mp4")]
    assert len(videos) == 2 and videos[0] == videos[1]


def test_float16_scales_the_loss_and_skips_steps_that_overflow(command, tmp_path):
    scaled = "deepspeed.fp16={{enabled: true, initial_scale_power: {}, hysteresis: 1}}".format
    train_video.train_video(command(tmp_path / "large", *FP16, scaled(40), "args.train_iters=2"))
    assert [kept(tmp_path / "large", step)["optimizer"]["loss_scale"]["cur_scale"] for step in (1, 2)] == [2**39, 2**38]
    assert torch.equal(weights(tmp_path / "large", 1), weights(tmp_path / "large", 2))
    with pytest.raises(ConfigError, match="deepspeed.fp16 needs deepspeed.zero_optimization.stage of 1 or more"):
        train_video.train_video(command(tmp_path / "plain", FP16[0]))
