"""Tests of benchmarks.several_processes at a size that takes seconds; the run itself compares the outputs."""
import os
import subprocess
import sys

import pytest

from benchmarks import several_processes
from common.errors import ConfigError
from common.files import REPOSITORY

ROWS = ["step, one process", "step, tokens divided", "step, branches divided", "decode, one process",
        "decode, time divided"]


def test_every_way_of_dividing_is_timed_beside_one_process():
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "benchmarks.several_processes",
         "--size", "tiny", "--repeats", "1", "--device", "cpu"],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in table] == ROWS
    assert table[0][2] == table[3][2] == "1.00" and all(float(row[3]) < 1e-5 for row in table)


def test_one_process_is_told_to_bring_others():
    with pytest.raises(ConfigError, match="one process cannot divide the work; start several: torchrun"):
        several_processes.main(["--size", "tiny", "--device", "cpu"])
