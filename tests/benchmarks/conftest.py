"""Fixtures of the tests of benchmarks."""
import pytest
import yaml

from benchmarks.study import main
from common.console import run


@pytest.fixture
def study(tmp_path):
    """A function that writes a study, runs it and returns the exit code."""
    def write_and_run(content, *words):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(content))
        return run(main, [str(path), "--out", str(tmp_path / "out"), *words])
    return write_and_run
