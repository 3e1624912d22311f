"""A studio over the small models, whose outputs go to a temporary folder."""
import pytest


@pytest.fixture
def studio(tmp_path):
    yield from opened_in(tmp_path)


@pytest.fixture(scope="module")
def lasting_studio(tmp_path_factory):
    """A studio that the tests of a file share."""
    yield from opened_in(tmp_path_factory.mktemp("studio"))


def opened_in(folder):
    pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")
    from cogvideo.studio.studio import Studio
    with Studio.opened([], [], str(folder / "outputs"), str(folder / "loras"), str(folder / "studies")) as opened:
        yield opened
