"""Whole files and the sole use of folders."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import DataError
from common.files import LOCK, cache_folder, sole_use, whole_file, whole_folder


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(DataError, match=r"a\.txt cannot be written \(No space left on device\)"), \
            whole_file(path) as partial:
        partial.write_text("half")
        raise OSError(28, os.strerror(28))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_a_dead_process_left_of_a_folder_goes_and_what_a_living_one_writes_stays(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, living, other = (tmp_path / name for name in (
        f".vae.{process.pid}.partial", f".vae.{os.getppid()}.partial", f".transformer.{process.pid}.partial"))
    for folder in (dead, living, other):
        folder.mkdir()
        (folder / "file").touch()
    with whole_folder(tmp_path / "vae") as folder:
        (folder / "new").touch()
    assert sorted(os.listdir(tmp_path)) == sorted([living.name, other.name, "vae"])
    assert os.listdir(tmp_path / "vae") == ["new"]


def test_a_writer_of_safetensors_that_fails_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"a\.safetensors cannot be written"), \
            whole_file(tmp_path / "a.safetensors") as partial:
        save_file({"a": torch.zeros(3)}, partial / "no folder")
    assert not os.listdir(tmp_path)


HOLD = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[2] / 'sat')!r})
from common.files import sole_use
with sole_use(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_told_and_freed_when_its_process_dies(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="in use by another run"), sole_use(tmp_path):
        pass
    other.kill()
    other.wait()
    with sole_use(tmp_path):
        pass
    with sole_use(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_without_a_home_folder_there_is_no_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/cogvideo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None


def test_an_input_that_is_missing_is_not_called_unwritable(tmp_path):
    with pytest.raises(FileNotFoundError, match="input.txt"), whole_file(tmp_path / "out.txt"):
        open(tmp_path / "input.txt")
    with pytest.raises(DataError, match="b/a.txt cannot be written"), whole_file(tmp_path / "b" / "a.txt") as partial:
        open(partial / "b")
