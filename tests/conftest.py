"""Fixtures that several test files share."""
import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """Folder of a small random model: t2v.yaml and i2v.yaml with the weights they name."""
    from tests.small_model import write_model
    root = tmp_path_factory.mktemp("small_model")
    write_model(root)
    write_model(root, image=True)
    return root
