"""Tests of saving a run: whatever interrupts it, `latest` names a whole checkpoint that can be resumed."""
import math
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import CheckpointError, ConfigError
from training import run_files, run_state
from training.continuation import clips_of_step
from training.data.batches import LiveClips
from training.data.marks import mark
from training.run_state import RunState
from weights.checkpoint import read_checkpoint, read_state_dict

PARTS = {"bias": 4, "weight": 4096}


def state(step):
    weights = {name: torch.full((size,), float(step)) for name, size in PARTS.items()}
    return RunState(step, weights, dict(weights), {"weights": [weights["weight"]]}, {"args.seed": 1})


def in_child(work) -> int:
    """Run `work` in a child process; return the signal that ended it, or minus its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def saved_step(folder):
    """Return the step that `latest` names, after checking everything that sampling and resuming read."""
    found = run_files.read_latest(folder, {"args.seed": 1})
    assert (folder / "latest").read_text() == str(found.step) == str(read_checkpoint(folder)["iteration"])
    expected = {name: torch.full((size,), float(found.step)) for name, size in PARTS.items()}
    for kept in (found.network, found.average, read_state_dict(folder)):
        assert all(torch.equal(value, expected[name.removeprefix("model.diffusion_model.")])
                   for name, value in kept.items())
    assert torch.equal(found.optimizer["weights"][0], expected["weight"])
    return found.step


def dies_at(number, monkeypatch):
    """Patch the functions that write to disk, so that the call of that number kills the process, some half-way."""
    calls = [0]

    def deadly(function, half=lambda *args: None):
        def called(*args, **kwargs):
            calls[0] += 1
            if calls[0] == number:
                half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return called

    def write_half(content, file):
        with open(file, "wb") if isinstance(file, Path) else file as stream:
            stream.write(b"PK half of it")
            stream.flush()

    def remove_half(folder, *args, **kwargs):
        for path in list(Path(folder).glob("*"))[:1]:
            os.unlink(path)

    monkeypatch.setattr(torch, "save", deadly(torch.save, write_half))
    monkeypatch.setattr(shutil, "rmtree", deadly(shutil.rmtree, remove_half))
    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_text")):
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))


def fill_the_disk_at(name, monkeypatch):
    """Patch torch.save to write only half of files with this in their name."""
    save = torch.save

    def full(content, file):
        if name not in file.name:
            return save(content, file)
        file.write(b"PK half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)


@pytest.mark.slow
def test_killed_at_any_moment_of_a_save_the_last_or_the_new_one_is_whole(tmp_path, monkeypatch):
    run_files.save(tmp_path / "start", state(1), keep=1)
    steps, number, ended = [], 0, signal.SIGKILL
    while ended == signal.SIGKILL:
        number += 1
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", folder)

        def work(folder=folder, number=number):
            dies_at(number, monkeypatch)
            run_files.save(folder, state(2), keep=1)

        ended = in_child(work)
        steps.append(saved_step(folder))
        run_files.clear_unfinished(folder)
        assert not list(folder.rglob(".*"))
        run_files.save(folder, state(3), keep=1)
        assert saved_step(folder) == 3
        assert sorted(path.name for path in folder.iterdir()) == ["3", "latest", "training"]
        assert [path.name for path in (folder / "training").iterdir()] == ["3_rank_00.pt"]
    assert ended == 0 and steps == sorted(steps) and set(steps) == {1, 2} and number > 12


@pytest.mark.parametrize("room", [1000, 20_000, 60_000])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path, room):
    run_files.save(tmp_path, state(1), keep=3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    larger = {"weight": torch.zeros(room // 4 + 4096)}

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(CheckpointError, match=r"step 2 could not be saved in .* \(File too large\); the checkpoint "
                                                  "of step 1 is intact: free some disk space and continue with "
                                                  "--resume"):
            run_files.save(tmp_path, RunState(2, larger, larger, {}, {}), keep=3)

    assert in_child(work) == 0
    assert saved_step(tmp_path) == 1
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_full_disk_while_the_checkpoint_itself_is_written(tmp_path, monkeypatch):
    run_files.save(tmp_path, state(1), keep=3)
    fill_the_disk_at("mp_rank_00", monkeypatch)
    with pytest.raises(CheckpointError, match="No space left on device"):
        run_files.save(tmp_path, state(2), keep=3)
    monkeypatch.undo()
    assert saved_step(tmp_path) == 1 and not list(tmp_path.rglob(".*"))
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["1_rank_00.pt"]  # room for another try


def test_what_latest_names_stays_whatever_else_is_there(tmp_path):
    for step in (10, 20, 30):
        run_files.save(tmp_path, state(step), keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"20", "30", "latest", "training"}
    (tmp_path / "latest").write_text("20")  # as a user who goes back to an earlier step
    run_files.save(tmp_path, state(25), keep=1)
    assert saved_step(tmp_path) == 25


def test_folders_that_the_run_did_not_write_stay(tmp_path):
    for name in ("2019", "10", "15"):  # photographs by year; a step's folder that holds something else as well
        (tmp_path / name).mkdir()
        (tmp_path / name / "photograph.jpg").write_bytes(b"mine")
    for step in (10, 20, 30):
        run_files.save(tmp_path, state(step), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"2019", "10", "15", "30", "latest", "training"}
    assert all(sorted(path.name for path in (tmp_path / name).iterdir()) == ["photograph.jpg"]
               for name in ("2019", "10", "15"))
    assert sorted(path.name for path in (tmp_path / "training").iterdir()) == ["30_rank_00.pt"]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 9])
def test_the_last_checkpoints_stay_however_many_are_kept(tmp_path, keep):
    steps = [10, 20, 30, 40, 50]
    for step in steps:
        run_files.save(tmp_path, state(step), keep=keep)
    kept = {str(step) for step in steps[-keep:]}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "latest", "training"}
    assert {path.name for path in (tmp_path / "training").iterdir()} == {f"{step}_rank_00.pt" for step in kept}


def test_steps_of_a_branch_that_was_left_neither_count_nor_go(tmp_path):
    for step in (3, 6, 9):
        run_files.save(tmp_path, state(step), keep=3)
    (tmp_path / "latest").write_text("3")  # the run is set back
    for step in (4, 5):
        run_files.save(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5", "6", "9", "latest", "training"]
    assert saved_step(tmp_path) == 5


def test_clips_of_a_step_are_those_of_all_processes():
    batch = {"deepspeed.train_micro_batch_size_per_gpu": 2, "deepspeed.gradient_accumulation_steps": 3}
    assert clips_of_step(batch | {"processes": 4}) == 24 and clips_of_step(batch) == 6
    assert clips_of_step({"deepspeed.train_batch_size": 8, "processes": 4}) == 8 and clips_of_step({}) is None


def test_what_changed_since_is_named(tmp_path):
    run_files.save(tmp_path, state(1), keep=1)
    with pytest.raises(ConfigError, match="changed configuration: a from None to 0, args.seed from 1 to 2, b from None "
                                          "to 0, c from None to 0, d from None to 0 and 2 more; change it back"):
        run_files.read_latest(tmp_path, {"args.seed": 2} | dict.fromkeys("abcdef", 0))


def test_a_key_that_an_earlier_version_did_not_save_had_its_default_and_one_that_nothing_reads_counts_not(tmp_path):
    run_files.save(tmp_path, replace(state(1), settings={"args.ema_decay": 0.5}), keep=1)
    run_files.read_latest(tmp_path, {"args.last_frame_rate": 0.0})
    with pytest.raises(ConfigError, match="args.last_frame_rate from 0.0 to 0.9"):
        run_files.read_latest(tmp_path, {"args.last_frame_rate": 0.9})


def test_clips_must_be_those_of_the_stopped_run():
    two = LiveClips([1, 2], marks=[mark("a.mp4", "file", "a", 10), mark("b.mp4", "file", "b", 20)])
    run_state.check_same_clips(RunState(1, {}, {}, {}, {}), [two])  # an older state
    run_state.check_same_clips(RunState(1, {}, {}, {}, {}, clips=(2,), marks=(tuple(two.marks),)), [two])
    with pytest.raises(ConfigError, match=r"args.train_data had 3 \+ 1 clips when the run was stopped and has 2 now"):
        run_state.check_same_clips(RunState(1, {}, {}, {}, {}, clips=(3, 1)), [two])
    before = (mark("a.mp4", "file", "a", 10), mark("b.mp4", "file", "b", 21))
    with pytest.raises(ConfigError, match=r"1 clips or captions are others than when .* \(b.mp4\); restore them"):
        run_state.check_same_clips(RunState(1, {}, {}, {}, {}, clips=(2,), marks=(before,)), [two])
    cached = (mark("a.mp4", "content", "a"), mark("b.mp4", "content", "b"))
    run_state.check_same_clips(RunState(1, {}, {}, {}, {}, clips=(2,), marks=(cached,)), [two])


def test_a_missing_state_is_an_error(tmp_path):
    assert run_files.read_latest(tmp_path, {}) is None
    run_files.save(tmp_path, state(1), keep=1)
    (tmp_path / "training" / "1_rank_00.pt").unlink()
    with pytest.raises(CheckpointError, match="latest names step 1, but .*1_rank_00.pt is missing"):
        run_files.read_latest(tmp_path, {"args.seed": 1})


def test_an_autoencoder_is_one_file_and_a_failed_save_leaves_it_and_latest_as_they_were(tmp_path, monkeypatch):
    run_files.save(tmp_path, state(1), 1, run_files.VAE)
    fill_the_disk_at("3d-vae", monkeypatch)
    with pytest.raises(CheckpointError, match="step 2 could not be saved .*; the checkpoint of step 1 is intact"):
        run_files.save(tmp_path, state(2), 1, run_files.VAE)
    monkeypatch.undo()
    weights = read_checkpoint(tmp_path / "3d-vae.pt")["state_dict"]
    assert all(torch.equal(value, torch.ones(PARTS[name]).half()) for name, value in weights.items())
    assert run_files.read_latest(tmp_path, {"args.seed": 1}).step == 1
    run_files.save(tmp_path, state(3), 1, run_files.VAE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3d-vae.pt", "latest", "training"]
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["3_rank_00.pt"]


@pytest.mark.parametrize("change, says", [
    (lambda it: it.pop("network"), "is not the state of a training run: it lacks network"),
    (lambda it: it.update(more=1), "RunState has no such parameter"),
    (lambda it: it.update(settings=3), "state.settings is 3; it must be a mapping"),
    (lambda it: it.update(step="two"), "state.step is 'two'"),
    (lambda it: it.update(step=9), "is of step 9; write another saved step"),
    (lambda it: it["average"]["weight"].fill_(math.nan), "cannot be used: the .*weight weight is nan")])
def test_a_state_that_is_none_is_one_line(change, says, tmp_path):
    run_files.save(tmp_path, state(2), keep=3)
    file = tmp_path / "training" / "2_rank_00.pt"
    content = torch.load(file)
    change(content)
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=says):
        run_files.read_latest(tmp_path, {"args.seed": 1})


@pytest.mark.parametrize("part, says", [("network", "the weights in the saved state"), ("average", "the averages in")])
def test_a_state_of_another_model_is_one_line(part, says):
    network = torch.nn.Linear(2, 2)
    weights = network.state_dict()
    run_state.restore(network, RunState(1, weights, weights, {}, {}))
    given = {"network": weights, "average": weights} | {part: {"weight": weights["weight"]}}
    with pytest.raises(CheckpointError, match=f"{says}.*missing: bias"):
        run_state.restore(network, RunState(1, optimizer={}, settings={}, **given))
