"""A studio over the small models, whose outputs go to a temporary folder."""
import pytest


@pytest.fixture
def studio(tmp_path):
    pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")
    from cogvideo.studio.studio import Studio
    with Studio.opened([], [], str(tmp_path / "outputs"), str(tmp_path / "loras"), str(tmp_path / "studies")) as opened:
        yield opened
