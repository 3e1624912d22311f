"""Tests of what `--plan` reports, without any weights."""
import logging

import pytest
import torch
from omegaconf import OmegaConf

from arguments import get_args
from common.files import REPOSITORY
from configuration.model import ModelConfig
from configuration.targets import instantiate_from_config
from dry_run import report
from dry_run.memory import TRANSFORMER, WEAK, estimate, transformer_costs
from dry_run.passes import network_calls
from dry_run.report import plan_lines, planned_model
from dry_run.work import Rates
from inference.sizes import model_limits, plan_video
from sample_video import main
from weights.checkpoint import save_checkpoint
from weights.lora import MIXIN, checkpoint_of, lora_of

CONFIGS = REPOSITORY / "configs"


def args_of(name, *words):
    return get_args(["--base", str(CONFIGS / f"{name}.yaml"), "--device", "cpu", *words])


@pytest.mark.parametrize("seconds, words", [(9.04, "9.0 s"), (138, "2.3 min"), (99420, "27.6 h")])
def test_durations_in_words(seconds, words):
    assert report.duration(seconds) == words


def test_small_model(caplog):
    caplog.set_level(logging.INFO)
    assert main(["--base", str(CONFIGS / "tiny_t2v.yaml"), "--plan", "--device", "cpu"]) == 0
    said = "\n".join(caplog.messages) + "\n"
    for part in ("video: 17 frames (asked: 5 latent frames) of 64 x 64 at 8 fps",
                 "latents: 5 frames of 8 x 8, 16 channels\n",
                 "tokens: 16 of text and 80 of video (5 x 4 x 4 patches)\n",
                 "work: 50 steps of EulerEDMSampler, 50 forward passes of the transformer, each of at most 2 rows",
                 "weights: text encoder ", "memory: ", "time: about "):
        assert part in said
    assert "will not fit" not in said and "model load" not in said


@pytest.mark.slow
def test_padding_crop_and_images_of_a_long_video_of_a_released_model_without_its_files(caplog):
    caplog.set_level(logging.INFO)
    words = ["--base", str(CONFIGS / "cogvideox1.5_5b_i2v.yaml"), "--plan", "--device", "cpu", "--num-frames", "161"]
    assert main(words) == 0
    said = dict(line.split(": ", 1) for line in caplog.messages if ": " in line)
    assert said["video"] == "161 frames of 768 x 1360 at 16 fps"
    assert said["latents"] == "42 frames of 96 x 170, 16 channels; the first 1 padding, dropped before decoding"
    assert said["tokens"] == ("224 of text and 85680 of video (21 x 48 x 85 patches, cropped from positions for "
                              "21 x 150 x 150)")
    assert said["images"] == "resized to a short side of 768; the video takes their shape"


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_would(monkeypatch):
    args = args_of("tiny_t2v").changed(device=torch.device("meta"))
    model = ModelConfig.read(args.model_config)
    _, peak = estimate(args, model, plan_video(model_limits(args.model_config), args.sampling), rows=2).peak
    monkeypatch.setattr(report.Rates, "of", lambda device, dtype: Rates(1e12, 1e12, 1e12, 1e12, 1e12, 1e-6))
    for share, says in ((0.8, "with args.bf16=true it needs "), (0.01, "make the video shorter"), (2, None)):
        monkeypatch.setattr(report, "free_memory", lambda device, room=share * peak: room)
        found = [line for line in plan_lines(args, model) if "will not fit" in line]
        assert (says is None and not found) or says in found[0]


@pytest.mark.slow
def test_a_lora_and_a_weaker_network_count(tmp_path):
    plain = args_of("tiny_t2v")
    network_config = plain.model_config.network_config
    weak = OmegaConf.merge(network_config, {"params": {"num_layers": 2}})
    guider = {"target": "sgm.guiders.Autoguidance", "params": {"scale": 2.0, "ckpt_path": "not read",
                                                              "network_config": OmegaConf.to_container(weak)}}
    lora = {"lora_config": {"target": MIXIN, "params": {"r": 4}}}
    tuned = instantiate_from_config(OmegaConf.merge(network_config, {"params": {"modules": lora}}))
    save_checkpoint(tmp_path, 1, checkpoint_of(lora_of(tuned)))
    args = args_of("tiny_t2v", "--load-lora", str(tmp_path))
    args.model_config.sampler_config.params.guider_config = guider
    plan = plan_video(model_limits(args.model_config), args.sampling)
    model, alone = planned_model(args), transformer_costs(plain.run, plain.memory, planned_model(plain), plan, 1)
    needed = transformer_costs(args.run, args.memory, model, plan, 1)
    added = needed[TRANSFORMER].weights - alone[TRANSFORMER].weights
    assert added == sum(value.nbytes for value in lora_of(tuned).matrices.values())
    assert needed[TRANSFORMER].work.flops > alone[TRANSFORMER].work.flops
    built = instantiate_from_config(weak)
    assert needed[WEAK].weights == sum(value.nbytes for value in (*built.parameters(), *built.buffers()))
    by_part = args.changed(offload="model", device=torch.device("meta"))
    found = estimate(by_part, model, plan, 1, needed)
    together = sum(cost.weights for cost in needed.values())  # both transformers are moved as one part
    for name, cost in needed.items():
        assert found.phases[name] == together + cost.activations
    assert network_calls(args.sampling, model) == {TRANSFORMER: [(1, 1)] * 50, WEAK: [(1, 1)] * 50}


def test_mistakes_get_one_line(capfd):
    assert main(["--base", str(CONFIGS / "tiny_t2v.yaml"), "--plan", "--num-frames", "18"]) == 2
    assert "the nearest is 17" in capfd.readouterr().err
