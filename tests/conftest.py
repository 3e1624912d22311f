"""Fixtures that several test files share."""
import os

import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """Folder of a small random model: t2v.yaml and i2v.yaml with the weights they name."""
    from tests.small_model import write_model
    root = tmp_path_factory.mktemp("small_model")
    write_model(root)
    write_model(root, image=True)
    return root


@pytest.fixture(scope="session")
def peak_memory():
    """See tests/peak_memory.py."""
    from tests.peak_memory import COUNTER, Worker
    if not os.access(COUNTER, os.W_OK):
        pytest.skip("the kernel's account of memory cannot be read here")
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")
