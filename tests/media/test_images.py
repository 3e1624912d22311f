import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import DataError
from media import images


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def test_rgb_is_exact(tmp_path, photo):
    image = images.load_image(save(tmp_path / "a.png", photo))
    assert image.shape == (3, 24, 40) and image.dtype == torch.float32
    expected = torch.from_numpy(photo).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, -1), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, photo, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = images.load_image(save(tmp_path / "a.png", photo, exif=exif))
    plain = images.load_image(save(tmp_path / "b.png", photo))
    torch.testing.assert_close(turned, torch.rot90(plain, turn, (1, 2)))


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    image = images.load_image(save(tmp_path / "a.png", rgba))
    assert (image[:, :2] == -1).all() and (image[:, 2:] == 1).all()
    palette = Image.fromarray(rgba[..., :3]).quantize(4)
    palette.info["transparency"] = 0
    palette.save(tmp_path / "p.png")
    assert (images.load_image(tmp_path / "p.png") == 1).all()


def test_gray_palette_and_16_bit(tmp_path, photo):
    gray = photo[..., 0]
    expected = images.load_image(save(tmp_path / "g.png", gray))
    assert (expected[0] == expected[1]).all() and (expected[0] == expected[2]).all()
    wide = gray.astype(np.uint16) * 257
    torch.testing.assert_close(images.load_image(save(tmp_path / "w.png", wide)), expected, atol=1e-6, rtol=0)
    palette = images.load_image(save(tmp_path / "p.png", np.stack([gray // 64 * 64] * 3, -1), mode="P"))
    assert palette.shape == (3, 24, 40)


def test_unreadable_images_give_one_line_with_the_path(tmp_path, photo):
    whole = save(tmp_path / "whole.png", photo).read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("short.png", "text.png", "empty.png", "missing.png", "folder.png"):
        with pytest.raises(DataError, match=name) as caught:
            images.load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


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
