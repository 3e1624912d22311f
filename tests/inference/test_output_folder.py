"""Tests of the output folder: held by one run, cleared of what dead runs left, with names that fit it."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import DataError
from common.files import sole_use
from inference.jobs import Job
from inference.output_folder import FILES, check_names, own_output, remove_partial_files
from inference.prompts import Prompt


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_two_runs_cannot_share_a_folder_but_may_have_folders_inside(tmp_path):
    with own_output(str(tmp_path)):
        with pytest.raises(DataError, match="in use by another run"), own_output(str(tmp_path)):
            pass
        with own_output(str(tmp_path / "other")):
            pass
    with own_output(str(tmp_path)), pytest.raises(DataError), sole_use(tmp_path):
        pass


def test_partial_files_that_no_living_process_owns_are_removed(tmp_path, caplog):
    folder = tmp_path / "made_again" / "0_a" / "0"
    folder.mkdir(parents=True)
    dead, living = dead_process(), os.getppid()
    gone = [folder / f".{Path(name).stem}.{number}.partial{Path(name).suffix}"
            for name in FILES for number in (dead, os.getpid(), 10**30)]
    kept = [folder / f".000000.{living}.partial.mp4", folder / f".model.{dead}.partial.safetensors",
            folder / "000000.mp4", folder / ".000000.partial.mp4", folder / f".000000.{dead}.partial.mp4.txt"]
    for path in (*gone, *kept):
        path.touch()
    with caplog.at_level("INFO"):
        remove_partial_files(tmp_path)
    assert sorted(folder.iterdir()) == sorted(kept)
    assert f"{len(gone)} partial file(s) of a run that died are removed: made_again/0_a/0/" in caplog.text


def test_names_that_the_file_system_does_not_take_are_told_before_anything_is_loaded(tmp_path):
    prompt = Prompt(0, "ä" * 5000)
    check_names([Job(prompt, 0, None, tmp_path / prompt.folder / "0")], str(tmp_path))
    deep = Path(str(tmp_path) + "/" + "/".join(["x" * 200] * 20))
    with pytest.raises(DataError, match="choose a shorter output folder"):
        check_names([Job(prompt, 0, None, deep / "0")], str(tmp_path))
