"""Tests of benchmarks.faster_by_choice: every way has a valid configuration; its cost is relative to lossless."""
import pytest
import torch

from benchmarks.faster_by_choice import WAYS, Made, row, spread
from benchmarks.shapes_judge import Verdict
from benchmarks.small_model import configured
from common.errors import ConfigError
from engine.checks import check_model


@pytest.mark.parametrize("name", WAYS)
def test_every_way_is_a_configuration_that_fits(name):
    args = configured("t2v", WAYS[name])
    check_model(args.model_config)
    assert name == "lossless" or configured("t2v", []) != args


def test_videos_are_spread_over_all_combinations():
    assert len(set(spread(6))) == 6 and len({c.color for c in spread(6)}) > 1
    with pytest.raises(ConfigError, match="--videos is 0"):
        spread(0)


def test_the_cost_is_told_beside_the_lossless_videos():
    videos = torch.zeros(2, 3, 1, 4, 4)
    off = videos + torch.tensor([0.0, 2.55]).view(2, 1, 1, 1, 1)
    lossless, lossy = Made(videos, 4.0, 2.0, 100, 100), Made(off, 1.0, 3.0, 100, 25)
    results = [(c, Verdict(c.color, c.shape, c.motion, c.background, {})) for c in spread(2)]
    told = row("cached", lossy, lossless, results)
    assert (told["passes"], told["skipped"], told["work"], told["time"]) == ("100", "75 %", "0.25", "0.25")
    assert told["decoding"] == "1.50"
    assert told["PSNR against lossless"] == "40.0 dB (worst 40.0), 1 equal"
    assert told["all attributes right"].startswith("100.0")
    assert row("same", lossless, lossless, results)["PSNR against lossless"] == "equal"
