"""Tests of sampling on a device other than the CPU: no tensor stays behind, and videos are the same."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretend_accelerator import WAYS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "pretend_accelerator.py"


@pytest.fixture(scope="module")
def differences(small_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("accelerator") / "model"
    shutil.copytree(small_model, folder)
    run = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", WAYS)
def test_a_video_is_the_same_as_the_cpus(differences, way):
    assert differences[way] <= 1  # of 255, because sums have another order


def test_layers_that_are_copied_ahead_are_ordered_with_what_computes(differences):
    assert differences["copies ahead"] > 100 and not differences["races"]


@pytest.mark.parametrize("what", ["devices meet", "float64", "complex numbers", "a missing operation"])
def test_what_an_accelerator_refuses_would_have_been_found(differences, what):
    assert not differences[what] and differences["one that is there"]
