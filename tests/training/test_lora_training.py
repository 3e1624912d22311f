"""Tests of training only a LoRA: what is saved, exact resumption, and sampling with the model it is for."""
import shutil
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

import train_video
from arguments import get_args
from common.errors import CheckpointError, ConfigError
from inference.checks import check_run
from inference.pipeline import load_engine
from tests.test_train_video import make_clips, on_two_processes, same
from weights.checkpoint import STATES, read_checkpoint, read_state_dict, save_checkpoint
from weights.lora import read_lora
from weights.lora_names import KINDS, PARTS, is_matrix, without_lora
from weights.lora_peft import write_peft

pytestmark = pytest.mark.slow

LORA = {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 2, "lora_alpha": 4}}


@pytest.fixture(scope="module")
def command(small_model, tmp_path_factory):
    """A function that returns the command line of a run of four steps that saves at step 2."""
    root = tmp_path_factory.mktemp("lora_training")
    make_clips(root / "clips", 3, 0)
    path = root / "lora.yaml"
    OmegaConf.save({
        "args": {"seed": 5, "train_data": [str(root / "clips")], "train_iters": 4, "save_interval": 2,
                 "latent_cache": str(root / "latents")},
        "model": {"not_trainable_prefixes": ["all"],
                  "network_config": {"params": {"modules": {"lora_config": LORA}}}},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1,
                      "zero_optimization": {"stage": 1}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}},
    }, path)
    return lambda save, *extra: ["--base", str(small_model / "t2v.yaml"), str(path), f"args.save={save}",
                                 "args.device=cpu", *extra]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train_video.train_video(command(folder))
    return folder


def kept(folder, step):
    return torch.load(folder / "training" / f"{step}_rank_00.pt", weights_only=True)


def test_nothing_but_the_lora_is_kept(whole, small_model):
    lora, base = read_lora(whole), read_state_dict(small_model / "t2v")
    assert (lora.rank, lora.alpha, len(lora.base)) == (2, 4, len(base))
    assert all(map(is_matrix, lora.matrices)) and all(map(is_matrix, kept(whole, 4)["network"]))
    assert any(value.any() for name, value in lora.matrices.items() if "matrix_B" in name)
    files = [whole / "4" / STATES, whole / "training" / "4_rank_00.pt"]
    assert all(file.stat().st_size < 200_000 for file in files)
    assert "base_shapes" in read_checkpoint(whole)["lora"]


def test_it_goes_on_exactly_and_over_the_same_model_alone(whole, command, small_model, tmp_path):
    train_video.train_video(command(tmp_path / "parts"))
    shutil.rmtree(tmp_path / "parts" / "4")
    (tmp_path / "parts" / "training" / "4_rank_00.pt").unlink()
    (tmp_path / "parts" / "latest").write_text("2")

    other = {name: value + 0.01 for name, value in read_state_dict(small_model / "t2v").items()}
    save_checkpoint(tmp_path / "other", 1, {"module": other})
    with pytest.raises(CheckpointError, match="trained a LoRA over other weights than those of args.load"):
        train_video.train_video(command(tmp_path / "parts", "--resume", f"args.load={tmp_path / 'other'}"))
    merged = {name: value + 0.01 * (value.ndim > 1) for name, value in read_state_dict(small_model / "t2v").items()}
    save_checkpoint(tmp_path / "merged", 1, {"module": merged})  # as by merging a LoRA, which changes matrices alone
    with pytest.raises(CheckpointError, match="trained a LoRA over other weights than those of args.load"):
        train_video.train_video(command(tmp_path / "parts", "--resume", f"args.load={tmp_path / 'merged'}"))
    train_video.train_video(command(tmp_path / "parts", "--resume"))
    assert same(kept(whole, 4), kept(tmp_path / "parts", 4))
    assert same(read_state_dict(whole), read_state_dict(tmp_path / "parts"))


def test_divided_among_processes_it_is_kept_whole(command, tmp_path):
    apart = ("model.loss_fn_config.params.sigma_sampler_config.params.uniform_sampling=false", "args.train_iters=2")
    train_video.train_video(command(tmp_path / "one", *apart, "deepspeed.gradient_accumulation_steps=2"))
    divided = command(tmp_path / "two", *apart, "deepspeed.zero_optimization.stage=3")
    stopped = command(tmp_path / "stopped", *apart, "deepspeed.zero_optimization.stage=3")
    on_two_processes([(None, divided), (1, stopped), (None, [*stopped, "--resume"])], tmp_path)
    one, two, resumed = (read_lora(tmp_path / name) for name in ("one", "two", "stopped"))
    assert {k: v.shape for k, v in two.base.items()} == {k: v.shape for k, v in one.base.items()}
    assert list(two.matrices) == list(one.matrices) and same(dict(two.matrices), dict(resumed.matrices))
    for name, value in one.matrices.items():
        assert value.any()
        torch.testing.assert_close(two.matrices[name], value, atol=1e-5, rtol=0)


def test_it_samples_over_the_model_it_was_trained_for(whole, small_model, tmp_path):
    argv = ["--base", str(small_model / "t2v.yaml"), "args.device=cpu", f"args.load_lora={whole}",
            f"args.output_dir={tmp_path}"]
    args = get_args([*argv, "args.input_type=cli"])
    check_run(args)
    state = load_engine(args).network.state_dict()
    lora, base = read_lora(whole), read_state_dict(small_model / "t2v")
    assert all(torch.equal(state[name], value) for name, value in lora.matrices.items())
    assert all(torch.equal(value, base[f"model.diffusion_model.{name}"]) for name, value in without_lora(state).items())
    other = ["--base", str(small_model / "i2v.yaml"), "args.device=cpu", f"args.load_lora={whole}"]
    with pytest.raises(CheckpointError, match="trained for another model"):
        check_run(get_args([*other, "args.input_type=cli"]))


def test_another_run_may_start_from_it(whole, command, tmp_path):
    args = get_args(command(tmp_path, f"args.load_lora={whole}"))
    train_video.check_settings(args)
    network = train_video.build_engine(args, fresh=True).network
    assert all(torch.equal(network.state_dict()[name], value) for name, value in read_lora(whole).matrices.items())


def test_it_may_be_on_mlp_and_modulations_too(command, tmp_path):
    params = "model.network_config.params.modules.lora_config.params"
    words = command(tmp_path / "run", f"{params}.targets=[attention,mlp,modulation]", "args.train_iters=2")
    train_video.train_video(words)
    lora = read_lora(tmp_path / "run")
    assert lora.kinds == list(KINDS) and len(lora.matrices) == 2 * len(lora.layers) * sum(PARTS.values())
    assert all(value.any() for value in lora.matrices.values())
    write_peft(tmp_path / "exported", lora)
    again = read_lora(tmp_path / "exported")
    assert again.alpha == lora.alpha and same(dict(again.matrices), dict(lora.matrices))
    args = get_args(command(tmp_path / "next", f"args.load_lora={tmp_path / 'exported'}", f"{params}.targets=[mlp]"))
    train_video.check_settings(args)
    with pytest.raises(CheckpointError, match="not all of which are in lora_config; leave its layer_range and targets"):
        train_video.build_engine(args, fresh=True)


def test_over_part_of_a_model_and_part_of_a_lora_it_says_what_is_lacking(whole, command, small_model, tmp_path, caplog):
    content = torch.load(small_model / "t2v" / "7" / "mp_rank_00_model_states.pt")
    missing = "mixins.final_layer.linear.bias"
    del content["module"][f"model.diffusion_model.{missing}"]
    torch.save(content, tmp_path / "part.pt")
    args = get_args(command(tmp_path / "run", f"args.load={tmp_path / 'part.pt'}", "--force-train"))
    train_video.check_settings(args)
    train_video.build_engine(args, fresh=True)
    assert "lacks 1 of" in caplog.text and missing in caplog.text
    lora = read_lora(whole)
    without = {name: torch.zeros_like(value) if name.endswith("query_key_value.matrix_A.1") or name.endswith(
        "query_key_value.matrix_B.1") else value for name, value in lora.matrices.items()}
    write_peft(tmp_path / "q_and_v", replace(lora, matrices=without))
    args = get_args(command(tmp_path / "next", f"args.load_lora={tmp_path / 'q_and_v'}"))
    train_video.check_settings(args)
    train_video.build_engine(args, fresh=True)
    assert f"has nothing for {len(lora.layers)} matrices of its layers, which stay zero in training" in caplog.text


@pytest.mark.parametrize("words, says", [
    (["args.load_lora=[a,b]"], "args.load_lora names 2 LoRAs; training continues one of them"),
    (["args.load_lora=a", "args.lora_scale=0.5"], "args.lora_scale is 0.5; training continues a LoRA at its own"),
])
def test_training_continues_one_lora_at_its_own_strength(words, says, command, tmp_path):
    with pytest.raises(ConfigError, match=says):
        train_video.check_settings(get_args(command(tmp_path, *words)))
