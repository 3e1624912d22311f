"""Tests of latents and records on disk."""
import json
import re
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.errors import DataError
from media.records import (
    RECORD,
    VIDEO,
    find_latents,
    load_latents,
    save_latents,
    verified_record,
    write_record,
)


def test_latents_round_trip_and_are_found(tmp_path):
    z = torch.randn(5, 4, 2, 2)
    save_latents(tmp_path / "0_a" / "0" / "latents.safetensors", z, fps=16)
    ((path, relative),) = find_latents(str(tmp_path))
    loaded, fps = load_latents(path)
    assert torch.equal(loaded, z) and fps == 16 and str(relative) == "0_a/0"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="has no readable latents"):
        load_latents(path)
    with pytest.raises(DataError, match="does not exist"):
        find_latents(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"null", b"[" * 5000, b'{"a": ' + b"1" * 9999])
def test_a_damaged_record_is_none_with_a_warning(tmp_path, caplog, content):
    (tmp_path / RECORD).write_bytes(content)
    assert verified_record(tmp_path) is None and len(caplog.messages) == 1
    assert str(tmp_path / RECORD) in caplog.text and "damaged" in caplog.text


@pytest.mark.parametrize("files", [
    {}, None, 3, ["000000.mp4"], {"000000.mp4": None}, {"000000.mp4": {"bytes": 5}}, {"000000.mp4": "5"},
    {"../000000.mp4": {"bytes": 5, "sha256": ""}}, {"missing.mp4": {"bytes": 5, "sha256": ""}}])
def test_a_record_must_describe_what_is_there(tmp_path, files):
    (tmp_path / VIDEO).write_bytes(b"video")
    (tmp_path / RECORD).write_text(json.dumps({"prompt": "a", "files": files}))
    assert verified_record(tmp_path) is None


def test_a_record_beside_another_file_is_not_believed(tmp_path):
    (tmp_path / VIDEO).write_bytes(b"video")
    write_record(tmp_path, {"prompt": "a \udce9"}, VIDEO)
    assert verified_record(tmp_path)["files"][VIDEO]["bytes"] == 5
    (tmp_path / VIDEO).write_bytes(b"other")
    assert verified_record(tmp_path) is None
    (tmp_path / VIDEO).unlink()
    assert verified_record(tmp_path) is None


LATENT = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("latents, says", [
    (torch.full((3, 4, 2, 2), float("nan")), "not finite"),
    (torch.full((3, 4, 2, 2), float("inf")), "not finite"),
    (torch.ones(3, 4, 2, 2, dtype=torch.int32), "type torch.int32"),
    (torch.ones(3, 4, 2, 2, dtype=torch.bool), "type torch.bool"),
    (torch.ones(4, 4, 2, 2), "shape (4, 4, 2, 2)"),
    (torch.ones(1, 3, 4, 2, 2), "shape (1, 3, 4, 2, 2)"),
    (torch.ones(0, 4, 2, 2), "shape (0, 4, 2, 2)"),
    (torch.ones(3, 4, 0, 2), "shape (3, 4, 0, 2)"),
    (torch.tensor(1.0), "shape ()"),
])
def test_latents_that_cannot_be_decoded(tmp_path, latents, says):
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=f"a.safetensors holds latents .*{re.escape(says)}"):
        load_latents(tmp_path / "a.safetensors")


@pytest.mark.parametrize("noted, rate", [
    ("16", 16), ("16.0", 16), (None, 8), ("abc", None), ("", None), ("0", None), ("-8", None), ("1.5", None),
    ("nan", None), ("inf", None), ("1e9", 10**9), ("1e10", None), ("9" * 500, None)])
def test_frame_rates_of_latents(tmp_path, noted, rate):
    save_file({"latents": LATENT}, tmp_path / "a.safetensors", metadata={} if noted is None else {"fps": noted})
    if rate is not None:
        assert load_latents(tmp_path / "a.safetensors")[1] == rate
        return
    with pytest.raises(DataError, match="a.safetensors notes a frame rate") as caught:
        load_latents(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_of_any_floating_type_are_read(tmp_path, dtype):
    save_file({"latents": LATENT.to(dtype)}, tmp_path / "a.safetensors")
    latents, _ = load_latents(tmp_path / "a.safetensors")
    assert latents.dtype == torch.float32 and torch.equal(latents, LATENT.to(dtype).float())


def test_damaged_latents_are_one_line(tmp_path):
    save_latents(tmp_path / "whole", LATENT, 8)
    whole = (tmp_path / "whole").read_bytes()
    headers = [b"", b"{", b"[]", b"null", b'{"latents": 3}', b'{"__metadata__": 3}', b'{"__metadata__": {"fps": 3}}']
    contents = [struct.pack("<Q", len(header)) + header for header in headers]
    random = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole[:random.integers(1, len(whole) + 1)])
        for place in random.integers(0, min(len(content), 100), random.integers(0, 4)):
            content[place] = random.integers(256)
        contents.append(content)
    for content in contents:
        (tmp_path / "a").write_bytes(content)
        try:
            latents, fps = load_latents(tmp_path / "a")
        except DataError as error:
            assert str(tmp_path / "a") in str(error) and "\n" not in str(error)
        else:
            assert latents.dim() == 4 and latents.isfinite().all() and fps > 0
