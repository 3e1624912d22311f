"""Several processes share the prompts of one run."""
import os
import socket
import subprocess
import sys

import pytest
import torch
from files import REPOSITORY
from sample_video import main

SCRIPT = str(REPOSITORY / "sample_video.py")
SHARED = str(REPOSITORY / "configs" / "inference.yaml")


def launch(words, processes=2):
    """(exit code, standard error) of each process, started as torchrun would."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = [subprocess.Popen([sys.executable, SCRIPT, *words], stderr=subprocess.PIPE, text=True, env={
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(torch.get_num_threads())}) for rank in range(processes)]
    try:
        said = [process.communicate(timeout=300)[1] for process in started]
    finally:  # one that failed leaves the other waiting
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.fixture
def words(small_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\na green triangle\n")
    return ["--base", str(small_model / "t2v.yaml"), SHARED, "--input-file", str(tmp_path / "prompts.txt"), "--seed", "3"]


def videos(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_each_prompt_is_made_once_and_as_by_one_process(words, tmp_path):
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    (first, told), (second, quiet) = launch([*words, "--output-dir", str(tmp_path / "two")])
    assert (first, second) == (0, 0), told + quiet
    assert videos(tmp_path / "two") == videos(tmp_path / "one") and len(videos(tmp_path / "one")) == 3
    assert "3 video(s)" in told and "video(s)" not in quiet and "step" not in quiet
    made = [line for line in told.splitlines() if line.startswith(str(tmp_path / "two"))]
    assert len(made) == 2, "the first and the third; the other process made the second"


def test_a_mistake_is_told_once(words, tmp_path):
    (first, told), (second, quiet) = launch([*words, "--input-type", "cli"])
    assert (first, second) == (2, 2) and quiet.strip() == ""
    assert told.startswith("error: args.input_type is cli") and told.count("\n") == 1


def test_two_processes_decode_one_video_together(words, tmp_path):
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    (first, told), (second, quiet) = launch([*words, "model.first_stage_config.params.cp_size=2",
                                             "--output-dir", str(tmp_path / "two")])
    assert (first, second) == (0, 0), told + quiet
    assert videos(tmp_path / "two") == videos(tmp_path / "one")
    assert len([line for line in told.splitlines() if line.startswith(str(tmp_path / "two"))]) == 3
