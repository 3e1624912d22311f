"""Tests of what a run folder is told to hold: nothing of a run is written over, and the remedy names its steps."""
import pytest
import torch

from common.errors import CheckpointError, ConfigError, DataError
from tests.training.test_run_files import state
from training import run_files, saved_steps


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that saved steps 2 and 4."""
    for step in (2, 4):
        run_files.save(tmp_path, state(step), keep=0)
    return tmp_path


def test_without_latest_a_run_is_neither_overwritten_nor_begun_anew(folder):
    (folder / "latest").unlink()
    remedy = "the steps 4, 2 are there: write one, such as 4, into .*latest and continue with --resume"
    with pytest.raises(CheckpointError, match=f"holds a run, but no file `latest` that names a step; {remedy}"):
        run_files.begin(folder, True, {})
    with pytest.raises(ConfigError, match=f"holds the checkpoints of a run already; `latest`.* is missing: {remedy}"):
        run_files.begin(folder, False, {})
    (folder / "latest").write_text("2")
    assert run_files.begin(folder, True, {"args.seed": 1}).step == 2


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf4\r\n", "4\n".encode("utf-16"), b" 4 "])
def test_latest_is_read_as_editors_write_it(content, folder):
    (folder / "latest").write_bytes(content)
    assert saved_steps.latest_step(folder) == 4


@pytest.mark.parametrize("content, said", [
    (b"", "latest holds '', which is no saved step; the steps 4, 2 are there"),
    (b"3", r"latest names step 3, but .*3_rank_00.pt is missing; the steps 4, 2 are there"),
    (b"release", "latest holds 'release', which is no saved step"), (b"-4", "'-4', which is no saved step"),
    ("٤".encode(), "which is no saved step"), (b"9" * 5000, "latest holds '9{40}', which"), (b"4\0", "zero bytes")])
def test_a_latest_that_names_no_step_is_one_line(content, said, folder):
    (folder / "latest").write_bytes(content)
    with pytest.raises((CheckpointError, DataError), match=said):
        saved_steps.latest_step(folder)


@pytest.mark.parametrize("name", ["3d-vae.pt", "7/mp_rank_00_model_states.pt", "training/7_rank_01.pt"])
def test_whatever_is_left_of_a_run_is_not_written_over(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    torch.save({}, tmp_path / name)
    for resume in (False, True):
        with pytest.raises((ConfigError, CheckpointError), match="there is no step to resume from: start a new run"):
            run_files.begin(tmp_path, resume, {})
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1


def test_the_log_of_a_run_that_saved_nothing_goes_on_with_resume_alone(tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="log.jsonl of a run that saved no checkpoint; begin it again with --resume"):
        run_files.begin(tmp_path, False, {})
    assert run_files.begin(tmp_path, True, {}) is None


def test_folders_of_a_user_are_no_run(tmp_path):
    (tmp_path / "2019").mkdir()
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "plan.txt").write_text("mine")
    assert run_files.begin(tmp_path, False, {}) is None
