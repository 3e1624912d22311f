"""Sliding windows of latent frames: cover, weights, blending, and noise that repeats."""
import pytest
import torch

from common.errors import ConfigError
from sgm.denoiser import Denoiser
from sgm.windows import TimeWindows, bind

WINDOWS = TimeWindows(size=5, overlap=2)


@pytest.mark.parametrize("frames, spans", [
    (3, [(0, 3)]), (5, [(0, 5)]), (6, [(0, 5), (1, 6)]), (8, [(0, 5), (3, 8)]), (9, [(0, 5), (3, 8), (4, 9)]),
    (11, [(0, 5), (3, 8), (6, 11)])])
def test_windows_cover_a_video_to_its_end(frames, spans):
    assert WINDOWS.spans(frames) == spans


@pytest.mark.parametrize("frames", range(1, 30))
def test_weights_sum_to_one_and_stay_within_their_window(frames):
    weights = WINDOWS.weights(frames)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(frames, dtype=torch.float64))
    for row, (first, end) in zip(weights, WINDOWS.spans(frames), strict=True):
        assert (row[first:end] > 0).all() and row[:first].sum() == row[end:].sum() == 0


def test_starts_are_multiples_of_a_patch():
    assert all(first % 2 == end % 2 == 0 for first, end in TimeWindows(6, 2, multiple=2).spans(20))


def test_a_network_without_memory_of_place_is_not_changed():
    x = torch.randn(2, 12, 3, 2, 2, dtype=torch.float64)
    found = WINDOWS.over(lambda x, t, cond, bias: x * 2 + cond["c"] + bias)(x, None, {"c": 1.0}, bias=0.5)
    torch.testing.assert_close(found, x * 2 + 1.5)


def test_outputs_go_over_into_each_other_without_a_jump():
    windowed = WINDOWS.over(lambda x, t, cond: x.mean(dim=1, keepdim=True).expand_as(x))
    x = torch.arange(11, dtype=torch.float64).view(1, 11, 1, 1, 1)
    found = windowed(x, None, {}).flatten()
    assert found.tolist() == pytest.approx([2, 2, 2, 3, 4, 5, 6, 7, 8, 8, 8])


def test_each_window_gets_its_stretch_of_what_is_joined_on_the_channels():
    concat = torch.randn(2, 12, 1, 2, 2, dtype=torch.float64)
    found = WINDOWS.over(lambda x, t, cond: x + cond["concat"])(torch.ones_like(concat), None, {"concat": concat})
    torch.testing.assert_close(found, concat + 1)


def test_noise_repeats_in_another_order_and_is_the_rows_own():
    noise = torch.randn(2, 14, 1, 2, 2)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    found = WINDOWS.rescheduled(noise, generators)
    assert torch.equal(found[:, :5], noise[:, :5])
    for row in found:
        for start in range(5, 12, 3):
            now, before = row[start:start + 3].flatten(1), row[start - 5:start - 2].flatten(1)
            assert sorted(now.tolist()) == sorted(before.tolist())
    alone = WINDOWS.rescheduled(noise[1:], [torch.Generator().manual_seed(4)])
    assert torch.equal(alone, found[1:]) and not torch.equal(found, noise)
    assert torch.equal(WINDOWS.rescheduled(noise[:, :4]), noise[:, :4])


@pytest.mark.parametrize("parameterization, level, frames", [
    ("VE", 2.7, [12]), ("VE", 2.5, [5, 5, 5, 5]), ("VP", 0.0, [12]), ("VP", 0.34, [12]), ("VP", 0.38, [5, 5, 5, 5]),
    ("flow", 0.73, [12]), ("flow", 0.71, [5, 5, 5, 5])])
def test_noisy_videos_are_seen_as_a_whole(parameterization, level, frames):
    seen = []

    def network(x, timesteps, cond):
        seen.append(x.shape[1])
        return x.mean(dim=1, keepdim=True).expand_as(x)

    denoiser = Denoiser({"target": "sgm.denoiser_scaling.EpsScaling"})
    x, levels = torch.randn(2, 12, 1, 2, 2), torch.full((2,), level)
    found = bind(denoiser, network, parameterization, WINDOWS, 2.6)(x, levels, {})
    assert seen == frames
    over = network if len(frames) == 1 else WINDOWS.over(network)
    torch.testing.assert_close(found, denoiser.bind(over, parameterization)(x, levels, {}))


@pytest.mark.parametrize("size, overlap, multiple", [(5, 0, 1), (5, 5, 1), (5, 2, 2), (6, 3, 2), (0, 0, 1)])
def test_impossible_windows_are_refused(size, overlap, multiple):
    with pytest.raises(ConfigError, match="not possible"):
        TimeWindows(size, overlap, multiple)
