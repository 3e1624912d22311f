"""Tests of the forward passes that a plan counts."""
import pytest

from arguments import get_args
from common.files import REPOSITORY
from configuration.model import ModelConfig
from dry_run.memory import TRANSFORMER, WEAK
from dry_run.passes import network_calls
from dry_run.report import plan_lines, planned_model

ALL_LEVELS = ("model.sampler_config.params.guider_config.params.sigma_lo=0",)  # guidance in every step


def args_of(name, *words):
    return get_args(["--base", str(REPOSITORY / "configs" / f"{name}.yaml"), "--device", "cpu", *words])


@pytest.mark.parametrize("words, expected", [
    (ALL_LEVELS, [2] * 49 + [1]), ((*ALL_LEVELS, "--batch-size", "3"), [6] * 49 + [3]),
    ((*ALL_LEVELS, "--strength", "0.5"), [2] * 24 + [1]),
    ((), [2] * 34 + [1] * 16), (("--no-dynamic-cfg",), [2] * 34 + [1] * 16), (("--guidance-scale", "1"), [1] * 50),
    (("--invert",), [1] * (4 * 49 + 49)), (("--invert", "--strength", "0.5"), [1] * (4 * 25 + 25)),
    ((*ALL_LEVELS, "--no-dynamic-cfg"), [2] * 50),
    (("--guidance-scale", "1", "--no-dynamic-cfg"), [1] * 50),
    ((*ALL_LEVELS, "model.guidance_one_by_one=true"), [1] * 99)])
def test_passes_are_those_of_the_sampler(words, expected):
    args = args_of("tiny_t2v", *words)
    found = network_calls(args.sampling, ModelConfig.read(args.model_config))
    assert found == {TRANSFORMER: [(rows, 1) for rows in expected], WEAK: []}


@pytest.mark.parametrize("words, whole", [((), 0), (("model.windows_below=2.6",), 21)])
def test_windows_count_and_noisier_videos_are_seen_as_a_whole(words, whole):
    args = args_of("tiny_t2v", "--num-frames", "33", "--long-video", "windows", *ALL_LEVELS, *words)
    lines = "\n".join(plan_lines(args, planned_model(args)))
    assert f"{whole + 3 * (50 - whole)} forward passes" in lines and "each of at most 2 rows" in lines
    assert ("each window has 5 x 4 x 4 where sigma / alpha is at most 2.6" in lines) == bool(whole)
    found = network_calls(args.sampling, ModelConfig.read(args.model_config), frames=9)[TRANSFORMER]
    assert found[:4] == [(2, 1)] * 4 and found[-1] == (1, 5 / 9 if whole else 1)
