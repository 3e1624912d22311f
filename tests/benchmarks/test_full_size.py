"""Tests of benchmarks.full_size at a size that takes seconds."""
import pytest
import torch

from benchmarks import full_size, speed_measure
from benchmarks.full_size import COLUMNS, LOSSLESS, USUAL, WAYS, left_out, quality
from benchmarks.random_models import SIZES
from common.errors import ConfigError
from configuration.model import ModelConfig
from configuration.targets import check_config

CPU = torch.device("cpu")


def test_the_small_size_is_measured_as_the_full_ones_are(capsys, monkeypatch):
    monkeypatch.setattr(speed_measure, "PRODUCT_SIZE", {"cpu": 64})
    full_size.main(["--size", "tiny", "--device", "cpu", "--attention", "fastest", "--ways", "UniPC, 12 steps",
                    "layers offloaded"])
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
    table = {row[0]: dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in rows if row[0] in WAYS}
    assert list(table) == [LOSSLESS, "UniPC, 12 steps"]
    assert table[LOSSLESS]["PSNR against lossless"] == "equal" and table[LOSSLESS]["passes"] == "4"
    assert table["UniPC, 12 steps"]["passes"] == "24" and "dB" in table["UniPC, 12 steps"]["PSNR against lossless"]
    assert "layers offloaded: skipped" in out and "--ways 'UniPC, 12 steps'" in out
    assert "attention by flash, the fastest" in out


def test_a_way_of_computing_that_even_the_lossless_video_cannot_take_is_a_mistake():
    with pytest.raises(ConfigError, match="cudnn"):
        full_size.main(["--size", "tiny", "--device", "cpu", "--attention", "cudnn"])


@pytest.mark.parametrize("size", ["2b", "5b", "1.5-5b"])
def test_every_way_is_a_configuration_that_can_be_built(size):
    for name, way in WAYS.items():
        model = ModelConfig.read(way.configure(SIZES[size].as_decoded().model()))
        check_config({k: v for k, v in vars(model).items() if k.endswith("_config")}, name)
    assert {LOSSLESS, *USUAL} <= set(WAYS)


def test_what_cannot_be_measured_is_left_out_with_a_reason(monkeypatch):
    assert left_out(WAYS[LOSSLESS], CPU) is None
    assert "nothing to offload" in left_out(WAYS["layers offloaded"], CPU)
    monkeypatch.setattr(full_size, "find_spec", lambda name: None)
    assert "torchao" in left_out(WAYS["fp8 weights"], CPU)


def test_quality_is_told_by_the_range_of_the_lossless_video():
    video = torch.tensor([0.0, 20.0])
    assert quality(video, video) == "equal"
    assert quality(video + 2, video) == "20.0 dB"
