"""The measures of reconstruction on cases with known answers, and the table of a run."""
import pytest
import torch
from PIL import Image

from benchmarks.reconstruction import C1, compared, edge_energy, flicker, main, ssim
from common.console import run
from tools import make_shapes


def test_psnr_and_ssim_of_flat_frames_by_hand():
    a, b = torch.full((2, 3, 16, 16), 0.0), torch.full((2, 3, 16, 16), 0.2)
    found, (x, y) = compared(a, b), (127.5, 153.0)
    assert found.psnr == pytest.approx(10 * torch.log10(torch.tensor(255 ** 2 / (x - y) ** 2)).item(), abs=1e-4)
    assert found.ssim == pytest.approx((2 * x * y + C1) / (x * x + y * y + C1), abs=1e-6)


def test_ssim_is_one_for_equals_and_falls_with_noise():
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 24, 24, generator=g, dtype=torch.float64) * 255
    noise = torch.randn(a.shape, generator=g, dtype=torch.float64)
    values = [ssim(a, a + amount * noise) for amount in (0, 5, 20, 80)]
    assert values[0] == pytest.approx(1) and values == sorted(values, reverse=True) and values[-1] < 0.8


def test_flicker_counts_differences_of_successive_frames():
    frames = torch.tensor([0.0, 4.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert flicker(frames) == pytest.approx(3.5) and flicker(frames[:1]) == 0


def test_a_blurred_edge_has_less_energy_and_sharpness_is_its_share():
    edge = torch.tensor([0.0, 0.0, 8.0, 8.0]).expand(1, 3, 4, 4)
    blurred = torch.tensor([0.0, 2.0, 6.0, 8.0]).expand(1, 3, 4, 4)
    assert edge_energy(edge) == pytest.approx(64 / 3) and edge_energy(blurred) == pytest.approx(24 / 3)
    wide = torch.linspace(-1, 1, 16).sign().expand(2, 3, 16, 16)
    assert compared(wide, wide).sharpness == pytest.approx(100)
    assert compared(wide, wide / 2).sharpness == pytest.approx(25)


@pytest.mark.slow
def test_a_table_with_a_line_for_each_size_and_length(tmp_path, capsys):
    assert run(make_shapes.main, ["--out", str(tmp_path), "--clips", "2"]) == 0
    capsys.readouterr()
    assert run(main, ["--base", "configs/tiny_t2v.yaml", "--device", "cpu", "--data", str(tmp_path), "--frames", "9",
                      "17", "33", "--sizes", "64x64", "--picture", str(tmp_path / "shown.png")]) == 0
    assert Image.open(tmp_path / "shown.png").size == (2 + 2 * 130, 2 + 2 * 130), "two clips above what is made of them"
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[:4] for line in lines] == [["9", "64 x 64", "2", "0"], ["17", "64 x 64", "2", "0"],
                                            ["33", "64 x 64", "0", "2"]]
    assert all(float(line[4]) > 30 and float(line[5]) > 0.9 for line in lines[:2]) and lines[2][4] == "-"


@pytest.mark.parametrize("words, says", [(["--frames", "5"], "5 frames cannot be decoded, only 8k + 1"),
                                         (["--picture", "a.mp4"], "a.mp4 must end in .png or .webp"),
                                         (["--sizes", "64"], "64 is not HEIGHTxWIDTH"),
                                         (["--sizes", "64x8"], "at least 16")])
def test_mistakes_get_one_line(words, says, capsys):
    assert run(main, ["--base", "configs/tiny_t2v.yaml", "--data", "nowhere", *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
