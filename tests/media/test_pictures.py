"""Tests of reading picture files."""
import struct
import zlib

import av
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.errors import DataError
from common.listing import Remarks
from media import pictures
from media.pictures import load_image


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def test_rgb_is_exact(tmp_path, photo):
    image = load_image(save(tmp_path / "a.png", photo))
    assert image.shape == (3, 24, 40) and image.dtype == torch.float32
    expected = torch.from_numpy(photo).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, -1), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, photo, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = load_image(save(tmp_path / "a.png", photo, exif=exif))
    plain = load_image(save(tmp_path / "b.png", photo))
    torch.testing.assert_close(turned, torch.rot90(plain, turn, (1, 2)))


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    image = load_image(save(tmp_path / "a.png", rgba))
    assert (image[:, :2] == -1).all() and (image[:, 2:] == 1).all()
    palette = Image.fromarray(rgba[..., :3]).quantize(4)
    palette.info["transparency"] = 0
    palette.save(tmp_path / "p.png")
    assert (load_image(tmp_path / "p.png") == 1).all()


def test_gray_palette_and_16_bit(tmp_path, photo):
    gray = photo[..., 0]
    expected = load_image(save(tmp_path / "g.png", gray))
    assert (expected[0] == expected[1]).all() and (expected[0] == expected[2]).all()
    wide = gray.astype(np.uint16) * 257
    torch.testing.assert_close(load_image(save(tmp_path / "w.png", wide)), expected, atol=1e-6, rtol=0)
    palette = load_image(save(tmp_path / "p.png", np.stack([gray // 64 * 64] * 3, -1), mode="P"))
    assert palette.shape == (3, 24, 40)


def test_unreadable_images_give_one_line_with_the_path(tmp_path, photo):
    whole = save(tmp_path / "whole.png", photo).read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("short.png", "text.png", "empty.png", "missing.png", "folder.png"):
        with pytest.raises(DataError, match=name) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix, options, off", [
    ("png", {}, 0), ("bmp", {}, 0), ("tif", {}, 0), ("webp", {"lossless": True}, 0), ("jpg", {"quality": 95}, 6),
    ("avif", {"quality": 90}, 6), ("tif", {"compression": "tiff_lzw"}, 0)])
def test_each_format_that_is_named_is_read(tmp_path, suffix, options, off):
    across, down = np.meshgrid(np.arange(80), np.arange(48))
    smooth = np.stack([3 * across, 5 * down, 255 - 2 * across - down], -1).astype(np.uint8)
    image = load_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(smooth), **options))
    assert ((image.permute(1, 2, 0) + 1) * 127.5 - torch.tensor(smooth)).abs().max() <= off + 1e-4


def test_a_name_does_not_matter(tmp_path, photo):
    path = saved(tmp_path / "a.png", Image.fromarray(photo), format="JPEG")
    assert load_image(path).shape == (3, 24, 40)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames_is_used_and_said(tmp_path, caplog, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    image = load_image(saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:]))
    assert image[0].min() > 0.9 and image[1:].max() < -0.9
    assert len(caplog.messages) == 1 and "the first is used" in caplog.text and f"a.{suffix}" in caplog.text


def test_a_long_text_in_a_picture_does_not_matter(tmp_path):
    text = PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png", pnginfo=text)
    assert load_image(tmp_path / "a.png")[0].min() == 1


def mp4(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 16
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("content, what", [
    (b"", "an empty file"),
    (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript program"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", r"a drawing \(SVG\)"),
    (b"a cat", "a text file"),
    (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
    (b"\x00\x00\x00\x1cftypheic" + bytes(40), r"a picture \(HEIC\)"),
    (bytes(100), "zero bytes alone"),
    (bytes([1, 2, 3, 4]) * 9, "data of an unknown format"),
    (mp4, r"a video \(MP4"),
])
def test_what_is_no_picture_is_named_for_what_it_is(tmp_path, content, what):
    path = tmp_path / "a.png"
    path.write_bytes(content(tmp_path / "b") if callable(content) else content)
    with pytest.raises(DataError, match=rf"a\.png is (not a picture but )?{what}"):
        load_image(path)


def test_formats_that_are_not_named_are_not_opened(tmp_path):
    for kind in ("PPM", "TGA", "ICO", "EPS", "JPEG2000", "SGI", "PCX"):
        path = saved(tmp_path / "a.png", Image.new("RGB", (16, 16)), format=kind)
        with pytest.raises(DataError, match="PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF are read"):
            load_image(path)


def test_colour_in_floats_is_refused_with_the_remedy(tmp_path):
    tags = ((256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
            (277, 3, 1, 3), (279, 4, 1, 12), (339, 3, 1, 3))
    content = struct.pack("<2sHI3f", b"II", 42, 20, 0.1, 0.2, 0.3) + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match="a.tif is a picture .TIFF. of a kind that is not read.*8 bits a channel"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("width, height", [(20_000, 20_000), (13_400, 13_400), (2**31 - 1, 1)])
def test_a_picture_is_refused_by_its_size_before_it_is_decoded(tmp_path, width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + rest)
    with pytest.raises(DataError, match="a.png is too large .*178,956,970 pixels") as caught:
        load_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_a_damaged_orientation_is_remarked(tmp_path, photo, caplog):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"
    image = load_image(saved(tmp_path / "a.jpg", Image.fromarray(photo), exif=exif))  # orientation 99
    assert image.shape == (3, 24, 40)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif", "avif"])
def test_damage_anywhere_is_one_line(tmp_path, photo, suffix):
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if suffix in ("bmp", "gif") else {"exif": exif}
    whole = saved(tmp_path / f"a.{suffix}", Image.fromarray(photo), **options).read_bytes()
    for _ in range(60):
        content = bytearray(whole[:random.integers(1, len(whole) + 1)])
        for place in random.integers(0, len(content), random.integers(1, 6)):
            content[place] = random.integers(256)
        (tmp_path / "b").write_bytes(content)
        try:
            image = load_image(tmp_path / "b", Remarks("picture"))
        except DataError as error:
            assert str(error).startswith(f"image {tmp_path / 'b'} is ") and "\n" not in str(error)
        else:
            assert image.shape[0] == 3 and image.isfinite().all()


def test_every_format_is_there():
    assert set(pictures._formats()) == set(pictures.FORMATS)
