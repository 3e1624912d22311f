"""A flipped bit in a checkpoint is found once; a file that was found whole is not read again."""
import os

import pytest
import torch

from common.errors import CheckpointError
from weights import checksums
from weights.checkpoint import read_state_dict, save_checkpoint
from weights.sources import transformer_weights

NAME = "model.diffusion_model.time_embed.0.weight"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save_checkpoint(tmp_path / "run", 1, {"module": {NAME: torch.full((1000,), 3.0)}})


def flip(file):
    """Flip a bit in the middle of the tensor, and give the file the time it had."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[content.index(torch.full((1000,), 3.0).numpy().tobytes()) + 2000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("read", [read_state_dict, lambda path: transformer_weights(path).read(),
                                  lambda path: transformer_weights(path).copy_into(torch.nn.Linear(1, 1))])
def test_a_flipped_bit_is_told(read, checkpoint):
    flip(checkpoint)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="is damaged .the checksum of .*data/0 is wrong"):
            read(checkpoint)


def test_a_file_is_verified_once_and_again_when_it_changes(checkpoint, monkeypatch):
    read_state_dict(checkpoint)
    verified = []
    monkeypatch.setattr(checksums, "_damaged", lambda file: verified.append(file))
    read_state_dict(checkpoint)
    assert verified == []
    os.utime(checkpoint, ns=(1, 1))
    read_state_dict(checkpoint)
    assert verified == [checkpoint]


@pytest.mark.parametrize("content", ["", "[]", "{", "\0"])
def test_a_damaged_memory_is_replaced(content, checkpoint):
    read_state_dict(checkpoint)
    checksums.cache_file().write_text(content)
    read_state_dict(checkpoint)
    assert str(checkpoint) in checksums.cache_file().read_text()


def test_without_a_place_to_remember_it_reads_all_the_same(checkpoint, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(checksums, "cache_file", lambda: tmp_path / "file" / "verified.json")
    assert read_state_dict(checkpoint)[NAME].sum() == 3000
    flip(checkpoint)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state_dict(checkpoint)


def test_a_file_saved_without_checksums_loads(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({NAME: torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_state_dict(tmp_path / "a.pt")[NAME], torch.ones(3))


def test_without_a_home_folder_it_reads_all_the_same(checkpoint, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(checksums, "cache_folder", lambda: None)
    assert checksums.cache_file() is None and read_state_dict(checkpoint)


def test_an_entry_that_says_it_is_encrypted_is_damaged(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1  # of the last entry in the directory
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state_dict(checkpoint)
