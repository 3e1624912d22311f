"""Files that are no weights are named for what they are, by their first bytes."""
import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from common.errors import CheckpointError
from weights.formats import OLD_TORCH, SAFETENSORS, TORCH, format_of


def saved(content, **settings):
    stream = io.BytesIO()
    torch.save(content, stream, **settings)
    return stream.getvalue()


def picture(kind):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    return stream.getvalue()


def archive(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return stream.getvalue()


def array():
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


WEIGHTS = {"a": torch.ones(300)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11150000000\n"
STRANGERS = {
    "empty": (b"", "is an empty file; copy or download it again"),
    "pointer": (LFS, "is a Git LFS pointer.*git lfs pull"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(40), "is a GGUF file; .*safetensors"),
    "page": (b"\n  <!DOCTYPE html><html><title>Sign in</title>", "is an HTML page.*download it again"),
    "error page": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an HTML page"),
    "message": (b'Entry not found', "is text .'Entry not found'., not weights"),
    "json": (b'{"error": "401"}', "is text"),
    "png": (picture("PNG"), "is a picture"), "jpg": (picture("JPEG"), "is a picture"),
    "webp": (picture("WEBP"), "is a picture"), "tiff": (picture("TIFF"), "is a picture"),
    "mp4": (b"\0\0\0\x20ftypisom" + bytes(40), "is a video"),
    "gz": (gzip.compress(b"weights"), "is a gzip archive; unpack it"),
    "zip": (archive(**{"model/weights.safetensors": b"x", "readme": b"y"}), "is a zip archive that holds no weights"),
    "no zip": (archive(), "is a zip archive that holds no weights of torch.save .nothing"),
    "npy": (array(), "is a NumPy array"),
    "pickle": (pickle.dumps({"a": np.zeros(3)}), "refused: it is a Python pickle .*none of it was executed"),
    "zeros": (bytes(4096), "zero bytes alone; .* never finished"),
    "noise": (b"\x9f\x03\xff\0" * 50, "no known format"),
    "cut zip": (saved(WEIGHTS)[:-200], "is truncated or damaged"),
    "cut safetensors": (save(WEIGHTS)[:40], "is truncated"),
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_a_file_is_and_what_helps(name, suffix, tmp_path):
    content, says = STRANGERS[name]
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as error:
        format_of(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_weights_are_what_they_are_whatever_their_name(tmp_path):
    for suffix in ("pt", "bin", "safetensors", "ckpt"):
        file = tmp_path / f"model.{suffix}"
        save_file(WEIGHTS, file)
        assert format_of(file) == SAFETENSORS
        for new, kind in ((True, TORCH), (False, OLD_TORCH)):
            file.write_bytes(saved(WEIGHTS, _use_new_zipfile_serialization=new))
            assert format_of(file) == kind


def test_a_header_of_absurd_length_is_told(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", 2**62) + b'{"a": 1}')
    with pytest.raises(CheckpointError, match="is truncated"):
        format_of(file)
