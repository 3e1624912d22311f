"""Tests of benchmarks.several_processes at a size that takes seconds; the run itself compares the outputs."""
import os
import subprocess
import sys

import pytest

from common.files import REPOSITORY

pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")

ROWS = ["step, one process", "step, tokens divided", "step, passes divided", "decode, one process",
        "decode, time divided"]


def run(*words: str, processes: int = 2) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    return subprocess.run([sys.executable, *launcher, "-m", "benchmarks.several_processes", "--size", "tiny", *words],
                          cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def test_every_way_of_dividing_is_timed_beside_one_process():
    done = run("--repeats", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in table] == ROWS
    assert table[0][2] == table[3][2] == "1.00" and all(float(row[3]) < 1e-5 for row in table)


def test_one_process_is_told_to_bring_others():
    done = run("--device", "cpu", processes=1)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "torchrun" in done.stderr
