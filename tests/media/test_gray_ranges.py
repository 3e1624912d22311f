"""Tests of gray pictures of more than 8 bits."""
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import DataError
from media.pictures import load_image

RAMP = np.linspace(0, 1, 12).reshape(3, 4)


def loaded(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return (load_image(path)[0] + 1) / 2


@pytest.mark.parametrize("dtype, white, said", [
    (np.uint16, 65535, None), (np.uint16, 4095, "4095 is white"), (np.uint16, 255, "255 is white"),
    (np.uint16, 50000, None), (np.int32, 255, "255 is white"), (np.int32, 65535, "65535 is white"),
    (np.int32, 2**31 - 1, "2.14748e+09 is white"), (np.int32, 1_000_000, "1e+06 is white"),
    (np.float32, 1.0, None), (np.float32, 255.0, "255 is white"), (np.float32, 65535.0, "65535 is white"),
    (np.float32, 8.5, "8.5 is white"), (np.float32, 9435, "9435 is white"), (np.uint16, 900, "900 is white"),
    (np.float32, 80, "255 is white"), (np.float32, 0.01, "0.01 is white"), (np.float32, 1.001, None)])
def test_white_is_what_the_values_say(tmp_path, caplog, dtype, white, said):
    unit = loaded(tmp_path / "a.tif", (RAMP * white).astype(dtype))
    full = {50000: 65535, 80: 255}.get(white, white)
    torch.testing.assert_close(unit, torch.from_numpy(RAMP * white / full).float(), atol=0.005, rtol=0)
    assert (said in caplog.text and "a.tif" in caplog.text) if said else not caplog.messages


def test_unsigned_values_of_32_bits_are_not_negative(tmp_path, caplog):
    values = (RAMP * (2**32 - 1)).astype(np.uint32)
    tags = ((256, 4, 1, 4), (257, 4, 1, 3), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
            (277, 3, 1, 1), (279, 4, 1, 48), (339, 3, 1, 1))
    content = struct.pack("<2sHI", b"II", 42, 56) + values.tobytes() + struct.pack("<H", len(tags))
    (tmp_path / "a.tif").write_bytes(content + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4))
    unit = (load_image(tmp_path / "a.tif")[0] + 1) / 2
    torch.testing.assert_close(unit, torch.from_numpy(RAMP).float(), atol=1e-6, rtol=0)
    assert "4.29497e+09 is white" in caplog.text


@pytest.mark.parametrize("dtype, low, high", [(np.float32, -1, 1), (np.int32, -1000, 3000), (np.float32, -5, -1)])
def test_negative_values_are_dark(tmp_path, caplog, dtype, low, high):
    unit = loaded(tmp_path / "a.tif", (low + RAMP * (high - low)).astype(dtype))
    top = max(high, 0)
    torch.testing.assert_close(unit, torch.from_numpy((low + RAMP * (high - low) - low) / (top - low)).float(),
                               atol=1e-3, rtol=0)
    assert f"from {low} to {high}: {low} is black, {top} is white" in caplog.text


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_black_stays_black(tmp_path, dtype):
    assert (loaded(tmp_path / "a.tif", np.zeros((3, 4), dtype)) == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    values = RAMP.astype(np.float32)
    values[1, 1] = value
    with pytest.raises(DataError, match="a.tif holds values that are not finite"):
        loaded(tmp_path / "a.tif", values)


def test_white_may_be_zero(tmp_path):
    values = (RAMP * 65535).astype(np.uint16)
    unit = loaded(tmp_path / "a.tif", values, tiffinfo={262: 0})
    torch.testing.assert_close(unit, torch.from_numpy(1 - RAMP).float(), atol=1e-4, rtol=0)


def test_a_png_of_16_bits_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    unit = loaded(tmp_path / "a.png", (RAMP * 65535).astype(np.uint16), exif=exif)
    torch.testing.assert_close(unit, torch.from_numpy(np.rot90(RAMP, -1).copy()).float(), atol=1e-4, rtol=0)
