"""Pictures of finished videos: a grid that plays, and rows that stand still."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.console import run
from media.videos import write_outputs
from tools.make_picture import PAUSE, main


@pytest.fixture
def outputs(tmp_path):
    for i in (0, 1, 10):
        folder = tmp_path / "outputs" / f"{i}_a_circle" / "0"
        folder.mkdir(parents=True)
        frames = torch.linspace(0, 0.4, 5)[None, :, None, None].expand(3, 5, 64, 64)
        write_outputs(folder, [frames + i / 10 - 0.9], 8)
        (folder / "metadata.json").write_text(json.dumps({"prompt": f"circle {i}", "image": None, "fps": 8}))
    return tmp_path / "outputs"


def make(*words):
    return run(main, [str(word) for word in words])


def test_all_videos_play_at_once_and_the_last_frame_stays(outputs, tmp_path):
    assert make(outputs, "--out", tmp_path / "picture.webp") == 0
    with Image.open(tmp_path / "picture.webp") as picture:
        assert picture.n_frames == 5 and picture.info["loop"] == 0
        durations = []
        for i in range(picture.n_frames):
            picture.seek(i)
            picture.load()
            durations.append(picture.info["duration"])
    assert durations == [125] * 4 + [PAUSE]


def test_rows_are_in_the_order_of_the_prompts(outputs, tmp_path):
    assert make(outputs, "--out", tmp_path / "picture.png") == 0
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("L"), dtype=float)
    heights = len(picture) // 3
    brightness = [picture[(i + 1) * heights - 30, 30] for i in range(3)]
    assert brightness == sorted(brightness) and brightness[0] < brightness[2]


def test_what_cannot_be_shown_is_one_line(tmp_path, outputs, capsys):
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty", "--out", tmp_path / "picture.png") == 2
    assert capsys.readouterr().err.startswith("error: no finished videos below")
    assert make(outputs, "--out", tmp_path / "picture.jpg") == 2
    assert "picture.jpg: give a name that ends with .webp" in capsys.readouterr().err
    (outputs / "0_a_circle" / "0" / "metadata.json").write_text("{")
    assert make(outputs, "--out", tmp_path / "picture.png") == 2
    assert "metadata.json is no record" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "outputs"]
