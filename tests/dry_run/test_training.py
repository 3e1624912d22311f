"""Tests of the plan of a training run: exact where it counts, and checked against the memory that runs take."""
import os
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import train_video
from arguments import get_args
from common.console import run
from configuration.model import ModelConfig
from data_video import clip_forms_of
from dry_run import training_report
from dry_run.between_steps import SAMPLING, VALIDATION
from dry_run.meter import measure_training
from dry_run.training import AVERAGE, BACKWARD, ENCODING, FILLING, GRADIENTS, OPTIMIZER, TRANSFORMER, estimate_training
from tests.test_train_video import make_clips

pytestmark = pytest.mark.slow

LORA = ("model.not_trainable_prefixes=[all]",
        "model.network_config.params.modules.lora_config={target: sat.model.finetune.lora2.LoraMixin, params: {r: 64}}")
BF16 = ("deepspeed.bf16.enabled=true",)
RECOMPUTED = ("args.checkpoint_activations=true",)
EIGHT_BIT = ("deepspeed.optimizer.type=AdamW8bit",)
OFFLOADED = ("deepspeed.zero_optimization.offload_optimizer={device: cpu}",)


@pytest.fixture(scope="module")
def command(small_model, tmp_path_factory):
    """A function that returns the command line of a run of a model of 40 MB on clips of 9 frames of 64 x 64."""
    root = tmp_path_factory.mktemp("plan")
    make_clips(root / "clips", 4, 0)
    make_clips(root / "valid", 2, 1)
    config = OmegaConf.load(small_model / "t2v.yaml")
    config.model.network_config.params.update({"hidden_size": 384, "num_attention_heads": 6, "num_layers": 4,
                                               "latent_width": 8, "latent_height": 8})
    config.args.load = None
    OmegaConf.save(config, root / "wide.yaml")
    OmegaConf.save({
        "args": {"train_data": [str(root / "clips")], "train_iters": 2, "device": "cpu"},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [64, 64], "fps": 8, "max_num_frames": 9}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1,
                      "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}}, root / "train.yaml")

    def words_of(*words, cache=True):
        cached = [f"args.latent_cache={root / ('cache16' if BF16[0] in words else 'cache')}"]
        return ["--base", str(root / "wide.yaml"), str(root / "train.yaml"), *(cached if cache else []), *words]

    words_of.valid = root / "valid"
    return words_of


def estimated(argv):
    args = get_args(argv)
    train_video.configure(args)
    return estimate_training(args, ModelConfig.read(args.model_config), clip_forms_of(args.data_config.params)[0])


def stage(number):
    return (f"deepspeed.zero_optimization.stage={number}",)


@pytest.mark.parametrize("words, cache", [
    ((), True), ((*stage(2), *BF16, "deepspeed.train_micro_batch_size_per_gpu=8"), True), ((*LORA, *stage(2)), True),
    (RECOMPUTED, True), ((*stage(1), "deepspeed.gradient_accumulation_steps=2"), True), ((*EIGHT_BIT, *stage(2)), True),
    ((*LORA, *BF16, *stage(2), *RECOMPUTED), True), ((*LORA, *stage(2)), False), ((*stage(2), *OFFLOADED), True)],
    ids=["all", "bf16", "lora", "recomputed", "accumulated", "8bit", "lora_bf16", "lora_without_cache", "offloaded"])
def test_estimate_is_within_a_fifth_of_what_a_run_takes(words, cache, command, tmp_path, peak_memory):
    argv = command(*words, cache=cache)
    taken = peak_memory("train", tmp_path / "run", *argv)
    needed = estimated(argv)
    assert needed.peak[1] == pytest.approx(taken, rel=0.2)


@pytest.mark.parametrize("phase, words, cache", [
    (VALIDATION, ("args.eval_interval=2", "args.eval_batch_size=16"), True),
    (VALIDATION, ("args.eval_interval=2", "args.eval_batch_size=8"), False),
    (SAMPLING, ("args.sample_interval=2", "args.sample_count=1"), True)],
    ids=["validation", "validation_without_cache", "samples"])
def test_validation_and_samples_are_within_a_fifth_of_what_they_take(phase, words, cache, command, tmp_path,
                                                                     peak_memory):
    valid = [f"args.valid_data=[{command.valid}]"] if phase == VALIDATION else []
    argv = command(*LORA, *stage(2), "deepspeed.train_micro_batch_size_per_gpu=1", *words, *valid, cache=cache)
    needed = estimated(argv)
    assert needed.peak[0] == phase
    assert needed.peak[1] == pytest.approx(peak_memory("train", tmp_path / "run", *argv), rel=0.2)


def test_parts_are_counted_by_dtype_stage_and_processes(command, monkeypatch):
    plain = estimated(command())
    n = plain.network.elements
    assert (plain.parts[TRANSFORMER], plain.parts[GRADIENTS], plain.parts[OPTIMIZER], plain.parts[AVERAGE]) == (
        4 * n, 4 * n, 8 * n, 4 * n)
    half = estimated(command(*BF16, *stage(2))).parts
    assert (half[TRANSFORMER], half[GRADIENTS], half[OPTIMIZER], half[AVERAGE]) == (2 * n, 2 * n, 12 * n, 4 * n)
    offloaded = estimated(command(*BF16, *stage(2), *OFFLOADED))
    assert (offloaded.parts[OPTIMIZER], offloaded.host) == (0, 18 * n)
    assert offloaded.peak[1] > offloaded.host, "a run on a CPU has one memory for both"
    assert estimated(command(*EIGHT_BIT)).parts[OPTIMIZER] == pytest.approx(2.03 * n, rel=0.01)
    lora = estimated(command(*LORA)).network
    assert lora.frozen == n and lora.elements < 0.2 * n and lora.activations < plain.network.activations
    assert plain.phases[FILLING] < sum(estimated(command(cache=False)).phases.values())
    assert "VAE" in estimated(command(cache=False)).parts and "VAE" not in plain.parts
    monkeypatch.setenv("WORLD_SIZE", "4")
    for number, parts in ((1, (4, 4, 3, 4)), (2, (4, 1, 3, 4)), (3, (1, 1, 3, 1))):
        found = estimated(command(*stage(number))).parts
        assert [found[name] / n for name in (TRANSFORMER, GRADIENTS, OPTIMIZER, AVERAGE)] == pytest.approx(parts)


def test_recomputed_activations_take_less(command):
    plain, recomputed = (estimated(command(*words)).network for words in ((), RECOMPUTED))
    assert recomputed.activations < 0.5 * plain.activations


def test_the_plan_loads_and_writes_nothing(command, tmp_path, caplog):
    caplog.set_level("INFO")
    words = command("--plan", f"args.save={tmp_path / 'run'}", "args.train_data=[missing]", "args.load=missing",
                    "model.first_stage_config.params.ckpt_path=missing",
                    "model.conditioner_config.params.emb_models.0.params.model_dir=missing")
    words[words.index(next(word for word in words if word.startswith("args.latent_cache")))] = (
        f"args.latent_cache={tmp_path / 'cache'}")
    train_video.train_video(words)
    for told in ("7.77 M parameters", "memory by part: transformer 31.1 MB, gradients 31.1 MB", "activations",
                 "at most", "9 frames of 64 x 64, from a latent cache"):
        assert told in caplog.text
    assert "validation" not in caplog.text and "sampling" not in caplog.text
    train_video.train_video([*words, "args.valid_data=[missing]", "args.eval_interval=2", "args.sample_interval=2"])
    assert ", validation " in caplog.text and ", sampling " in caplog.text and ", VAE " in caplog.text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("room, told", [
    (80, "with args.vae_tiling=true it needs 8.0 GB"),
    (45, "with args.vae_tiling=true deepspeed.train_micro_batch_size_per_gpu=1 it needs 4.0 GB"),
    (20, "take smaller or shorter clips")])
def test_only_changes_that_make_the_largest_phase_smaller_are_advised(room, told, command, monkeypatch):
    def estimated_as(args, model, form):
        clips = args.deepspeed_config.train_micro_batch_size_per_gpu
        phases = {ENCODING: 4 if args.autoencoder.vae_tiling else 10, BACKWARD: 2 * clips}
        phases = {name: int(size * 1e9) for name, size in phases.items()}
        return SimpleNamespace(phases=phases, peak=max(phases.items(), key=lambda phase: phase[1]))

    monkeypatch.setattr(training_report, "estimate_training", estimated_as)
    args = get_args(command(cache=False))
    train_video.configure(args)
    advised = training_report._remedy(args, clip_forms_of(args.data_config.params)[0], room * 1e8)
    assert advised.startswith(told)
    assert args.deepspeed_config.train_micro_batch_size_per_gpu == 4, "the run's own settings stay"


@pytest.mark.parametrize("words, told", [
    (("deepspeed.optimizer.type=AdamW8bits",), "AdamW8bit"), (("data.params.video_size=[60,64]",), "multiples of 8"),
    (("args.offload_activations=true",), "args.checkpoint_activations"),
    (("args.offload_activations=true", *RECOMPUTED), "no effect on a CPU"),
    (("args.train_iters=null",), "args.train_iters")])
def test_wrong_settings_are_one_line(words, told, command, capsys):
    assert run(train_video.train_video, command("--plan", *words)) == 2
    assert told in capsys.readouterr().err


def test_attention_in_training_keeps_no_scores():
    q = torch.empty(2, 4, 1000, 32, device="meta", requires_grad=True)
    layer = torch.nn.Linear(32, 32, device="meta")
    alone, together = measure_training(
        lambda: torch.nn.functional.scaled_dot_product_attention(layer(q), layer(q), layer(q)).sum(), layer,
        torch.device("meta"))
    assert 4 * q.nbytes < alone <= together < 10 * q.nbytes
