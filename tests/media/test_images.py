import logging
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.listing import Remarks
from media import images


def test_covering_keeps_the_centre_and_the_proportions():
    ramp = torch.linspace(-1, 1, 120).expand(3, 60, 120)
    fitted = images.fit_image_cover(ramp, (30, 30))
    assert fitted.shape == (3, 30, 30)
    expected = torch.nn.functional.avg_pool2d(ramp, 2)[..., 15:45]
    torch.testing.assert_close(fitted, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(7, 1000), (1000, 7), (60, 90), (481, 719), (1, 1)])
def test_covering_always_fills_the_size(shape):
    assert images.resize_cover_crop(torch.zeros(2, 3, *shape), (48, 72)).shape == (2, 3, 48, 72)


def test_the_right_size_is_left_alone():
    video = torch.rand(2, 3, 16, 24) * 2 - 1
    assert torch.equal(images.resize_cover_crop(video, (16, 24)), video)


@pytest.mark.parametrize(
    "shape, fitted",
    [
        ((480, 720), (768, 1152)),
        ((720, 480), (1152, 768)),
        ((768, 1360), (768, 1360)),
        ((500, 500), (768, 768)),
        ((100, 1000), (768, 1360)),
        ((1000, 100), (1360, 768)),
        ((333, 500), (768, 1152)),
    ],
)
def test_short_side_sizing(shape, fitted):
    assert images.fit_image_short_side(torch.zeros(3, *shape)).shape == (3, *fitted)


def test_an_elongated_picture_is_cropped_not_squeezed():
    ramp = torch.linspace(-1, 1, 1000).expand(3, 100, 1000)
    fitted = images.fit_image_short_side(ramp, short=64, multiple=16, max_long=128)
    assert fitted.shape == (3, 64, 128)
    assert fitted[0, 0, -1] - fitted[0, 0, 0] == pytest.approx(2 * 127 / 640, abs=0.01)


def whole(frames, size, method):
    """The centre of frames that are scaled as a whole, by the definition."""
    scale = max(size[0] / frames.shape[-2], size[1] / frames.shape[-1])
    covering = [round(side * scale) for side in frames.shape[-2:]]
    scaled = np.stack([np.asarray(Image.fromarray(channel).resize(covering[::-1], method))
                       for channel in frames.reshape(-1, *frames.shape[-2:]).numpy()])
    top, left = ((have - want) // 2 for have, want in zip(covering, size, strict=True))
    part = scaled[:, top:top + size[0], left:left + size[1]]
    return torch.from_numpy(part).reshape(*frames.shape[:-2], *size).clamp(-1, 1)


@pytest.mark.parametrize("shape", [(30, 900), (900, 30), (7, 300), (300, 7), (64, 700), (90, 31), (41, 60)])
def test_what_is_not_kept_is_not_scaled_and_nothing_else_changes(shape):
    video = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for size in ((32, 48), (48, 32)):
        expected = whole(video, size, Image.Resampling.BICUBIC)
        torch.testing.assert_close(images.resize_cover_crop(video, size), expected, atol=2e-5, rtol=0)


def test_the_part_of_a_long_picture_is_that_of_the_scaled_whole():
    picture = torch.rand(3, 40, 500, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = whole(picture, (64, 128), Image.Resampling.LANCZOS)
    fitted = images.fit_image_short_side(picture, short=64, multiple=16, max_long=128)
    torch.testing.assert_close(fitted, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 300_000), (300_000, 1)])
def test_a_line_of_pixels_takes_no_more_memory_than_it_shows(shape):
    line = torch.linspace(-1, 1, 300_000).reshape(1, *shape).expand(3, *shape)
    with at_most_gigabytes(4):  # scaled as a whole it would be hundreds
        fitted = images.fit_image_cover(line, (480, 720))
        short = images.fit_image_short_side(line)
    assert fitted.shape == (3, 480, 720) and abs(fitted).max() < 1e-4
    assert sorted(short.shape) == [3, 768, 1360] and abs(short).max() < 1e-4


@contextmanager
def at_most_gigabytes(more):
    """Let this process take so much more address space."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (more << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("shape, size, kinds", [
    ((480, 720), (480, 720), []),
    ((960, 1440), (480, 720), []),
    ((480, 719), (480, 720), [images.REMARK_ENLARGED]),
    ((960, 1100), (480, 720), []),
    ((1440, 1440), (480, 720), [images.REMARK_CROPPED]),
    ((64, 300), (480, 720), [images.REMARK_ENLARGED, images.REMARK_CROPPED]),
])
def test_a_loss_is_remarked(caplog, shape, size, kinds):
    remarks = Remarks("picture")
    images.remark_fit(shape, size, "a.png", remarks)
    remarks.warn(logging.getLogger())
    assert [message.partition(": a.png (")[0] for message in caplog.messages] == [f"1 picture {kind}" for kind in kinds]
