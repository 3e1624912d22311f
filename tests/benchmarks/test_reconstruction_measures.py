"""The measures of reconstruction on cases with known answers."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.reconstruction_measures import (
    C1,
    C2,
    compared,
    detail_apart,
    edge_energy,
    edges,
    flicker,
    ms_ssim,
    ssim,
)


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


def lines(*values):
    """Return a frame (1, 3, 16, len(values)) whose rows have these values."""
    return torch.tensor(values, dtype=torch.float64).expand(1, 3, 16, len(values))


EDGE = lines(0, 0, 0, 0, 9, 9, 9, 9)


@pytest.mark.parametrize("made, kept, true", [
    (EDGE, 1, 1), (lines(0, 0, 0, 9, 9, 9, 9, 9), 1, 1),  # a pixel away
    (lines(0, 0, 9, 9, 9, 9, 9, 9), 0, 0),  # two pixels away
    (lines(0, 0, 0, 3, 6, 9, 9, 9), 1 / 3, 1),  # blurred
    (lines(0, 1, 3, 4, 5, 6, 8, 9), 1 / 9, 1 / 3),  # blurred so far that some differences are too far away
    (lines(0, 9, 0, 0, 9, 9, 9, 9), 1, 1 / 3),  # a false line: two edges more
    (lines(0, 0, 0, 0, 12, 9, 9, 9), 1, 9 / 15),  # ringing
    (lines(9, 9, 9, 9, 0, 0, 0, 0), 0, 0),  # of the other sign
    (lines(*[5] * 8), 0, 0)])  # flat
def test_edges_are_kept_and_true_by_hand(made, kept, true):
    assert edges(EDGE, made) == pytest.approx((kept, true))
    assert edges(EDGE.mT, made.mT) == pytest.approx((kept, true))


def test_noise_is_sharper_than_blur_and_shares_fewer_edges_with_the_source():
    g = torch.Generator().manual_seed(0)
    source = torch.rand(2, 3, 4, 4, generator=g, dtype=torch.float64).repeat_interleave(8, 2).repeat_interleave(8, 3)
    blurred = F.avg_pool2d(F.pad(source, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noisy = blurred + 0.1 * torch.randn(source.shape, generator=g, dtype=torch.float64)
    (kept, true), (kept_too, less_true) = edges(source, blurred), edges(source, noisy)
    assert edge_energy(noisy) > 1.2 * edge_energy(blurred)
    assert true == pytest.approx(1) and less_true < 0.5
    assert kept_too * less_true / (kept_too + less_true) < kept * true / (kept + true), "their harmonic mean"


def test_detail_is_apart_where_it_is_lost_or_invented_and_not_where_it_moves():
    g = torch.Generator().manual_seed(0)
    source = (torch.rand(4, 3, 32, 32, generator=g) > 0.5).double() * 200
    blurred = F.avg_pool2d(F.pad(source, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    other = blurred + 60 * torch.randn(source.shape, generator=g, dtype=torch.float64)
    moved = source.roll((8, 4), dims=(2, 3))
    apart = {name: detail_apart(source, made) for name, made in
             (("same", source), ("moved", moved), ("blurred", blurred), ("other", other))}
    assert apart["same"] == 0
    assert 4 * apart["moved"] < apart["other"] < apart["blurred"]
    assert (source - moved).square().mean() > (source - other).square().mean(), "though PSNR prefers them"


@pytest.mark.parametrize("scale, height", [(1, 30), (2, 30), (1, 7)])
def test_detail_of_one_scale_is_apart_by_sorted_projections(scale, height):
    g = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, 3, height, 24, generator=g, dtype=torch.float64) for _ in range(2))
    assert detail_apart(scale * a, scale * b) == pytest.approx(scale * detail_apart(a, b))  # in grey levels
    directions = torch.randn(147, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projected = []
    for x in (a, b):
        coarse = F.interpolate(F.avg_pool2d(x, 2), (height, 24), mode="bilinear")
        patches = F.unfold(x - coarse, 7).transpose(1, 2).flatten(0, 1)
        projected.append(np.sort((patches @ (directions / directions.norm(dim=0))).numpy(), axis=0))
    assert detail_apart(a, b) == pytest.approx(np.abs(projected[0] - projected[1]).mean())


def test_similarity_over_scales_by_its_parts():
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 44, 50, generator=g, dtype=torch.float64) * 255
    b = a + 30 * torch.randn(a.shape, generator=g, dtype=torch.float64)
    one, other = a[..., :20, :20], b[..., :20, :20]
    assert ms_ssim(a, a) == pytest.approx(1) and ms_ssim(one, other) == pytest.approx(ssim(one, other))
    shares = torch.tensor([0.0448, 0.2856, 0.3001]) / (0.0448 + 0.2856 + 0.3001)  # 44, 22 and 11 pixels
    product = torch.ones(2, 3, dtype=torch.float64)
    for scale, share in enumerate(shares.tolist()):
        size = 2 ** scale
        x, y = (v[..., :50 // size * size].unfold(2, size, size).unfold(3, size, size).mean((-1, -2)) for v in (a, b))
        parts = torch.tensor([[_structure(x[t, c].numpy(), y[t, c].numpy(), scale == 2) for c in range(3)]
                              for t in range(2)], dtype=torch.float64)
        product *= parts ** share
    assert ms_ssim(a, b) == pytest.approx(product.mean().item(), rel=1e-6)


def _structure(a, b, with_luminance):
    """Return the mean similarity of contrast and structure of a colour of a frame by a loop over its windows."""
    line = np.exp(-(np.arange(11) - 5.0) ** 2 / (2 * 1.5 ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y:y + 11, x:x + 11], b[y:y + 11, x:x + 11]
            m, n = (window * p).sum(), (window * q).sum()
            v, w = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
            value = (2 * (window * (p - m) * (q - n)).sum() + C2) / (v + w + C2)
            found.append(value * ((2 * m * n + C1) / (m * m + n * n + C1) if with_luminance else 1))
    return np.mean(found)
