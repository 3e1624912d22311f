"""Fixtures that several test files share."""
import gc
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
COMMANDS = ("benchmarks", "tools")  # folders of tests that are of no room of sat/, and mostly slow


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as quick what is neither marked as slow or index nor of a command: `bash tests/run.sh -m quick`."""
    for item in items:
        marked = any(item.get_closest_marker(name) for name in ("slow", "index"))
        if item.path.relative_to(TESTS).parts[0] not in COMMANDS and not marked:
            item.add_marker("quick")


def pytest_collection_finish():
    """Leave out of Python's searches for garbage what the tests' modules and libraries hold to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """The tests, and the processes that they start, neither use nor fill the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """The folder of a small random model: t2v.yaml and i2v.yaml with the weights that they name."""
    from tests.random_model import write_model
    root = tmp_path_factory.mktemp("small_model")
    write_model(root)
    write_model(root, image=True)
    return root


@pytest.fixture(scope="module")
def peak_memory():
    """A worker process that measures the peak memory of jobs (tests/peak_memory.py).

    Each module has its own, so that what the jobs of one leave behind cannot be used again by those of another.
    """
    from tests.peak_memory import COUNTER, Worker
    if not os.access(COUNTER, os.W_OK):
        pytest.skip("the peak memory of a process cannot be reset here")
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def diffusers():
    """The diffusers library; tests that need it are skipped where it is missing."""
    return pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")
