"""Odd values in every place of a configuration, and damaged files: each is one line, nothing hangs, nothing is written.

The same drawn cases each time; `tests/odd_values.py` drives the entry points up to where weights would load.
"""
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from arguments import get_args
from benchmarks.studies.grid import read_study
from common.console import message_of
from common.files import REPOSITORY
from common.text import read_text
from inference.prompts import read_prompts
from media.clip_folders import read_clip_folder
from media.clips import ClipFormat, read_clip
from media.pictures import load_image
from media.records import load_latents, read_record
from tests.odd_values import MISSING, ODD, PLAN, SAMPLING, STUDY, TRAINING, VAE_TRAINING, changed, places
from weights.checkpoint import read_checkpoint
from weights.lora import read_lora

CASES = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate],
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
CLIPS = {"target": "data_video.SFTDataset", "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with the smallest clip that there is, and its caption."""
    from media.videos import write_video
    folder = tmp_path_factory.mktemp("clips")
    (folder / "videos").mkdir()
    (folder / "labels").mkdir()
    (folder / "labels/a.txt").write_text("a red circle")
    write_video(folder / "videos/a.mp4", [np.zeros((17, 32, 32, 3), np.uint8)], 8)
    return folder


def loaded(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / "configs" / name).read_text())


@pytest.fixture
def trees(small_model, clips, tmp_path):
    """A configuration that is accepted, by the name of its entry point."""
    model = yaml.safe_load((small_model / "t2v.yaml").read_text())
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    sampling = model | {"data": CLIPS, "args": model["args"] | {
        "input_file": str(tmp_path / "prompts.txt"), "output_dir": str(tmp_path / "out"), "device": "cpu"}}
    own = {"train_data": [str(clips)], "save": str(tmp_path / "run"), "device": "cpu"}
    training = model | {"data": CLIPS, "args": model["args"] | own | {"train_iters": 4},
                        "deepspeed": loaded("tiny_t2v_train.yaml")["deepspeed"]}
    vae = loaded("tiny_vae.yaml")
    vae["args"] = own
    return {"plan": sampling, "sampling": sampling, "training": training, "vae": vae,
            "study": loaded("studies/order_of_convergence.yaml")}


ENTRIES = {"plan": PLAN, "sampling": SAMPLING, "training": TRAINING, "vae": VAE_TRAINING, "study": STUDY}


@pytest.mark.slow
@pytest.mark.parametrize("name, cases", [("plan", 25), ("sampling", 50), ("training", 40), ("vae", 40), ("study", 40)])
def test_odd_values_are_one_line(name, cases, trees, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("arguments.REPOSITORY", tmp_path)  # where the outputs that a file names would go
    tree, entry = trees[name], ENTRIES[name]
    assert entry(tree, tmp_path, monkeypatch) == (0 if name == "plan" else 2)
    if name != "plan":
        assert "error: reached" in capsys.readouterr().err
    kept = {"odd.yaml", "prompts.txt"}

    @settings(CASES, max_examples=cases)
    @given(place=st.sampled_from(list(places(tree))), value=st.sampled_from([*ODD, MISSING]))
    def try_one(place, value):
        for folder in (tmp_path / "out", tmp_path / "run", tmp_path / "runs"):
            shutil.rmtree(folder, ignore_errors=True)
        code = entry(changed(tree, place, value), tmp_path, monkeypatch)
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code in (0, 2) and len(errors) == (code == 2) and "Traceback" not in said, (place, value, said)
        written = {path.name for path in tmp_path.iterdir()} - kept
        assert not written or not errors or "reached" in errors[0] or written <= {"out", "run"}, (place, value, written)

    try_one()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(file, "PNG")
    return file.getvalue()


def checkpoint() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2, 3)}}, file)
    return file.getvalue()


def lora() -> bytes:
    layer = "transformer.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    return save({layer.format("A"): torch.ones(2, 8), layer.format("B"): torch.ones(8, 2)}, {"alpha": "2"})


def read_configuration(path: Path):
    return get_args(["--base", str(path)])


def read_parent(path: Path):
    return read_clip_folder(path.parent)


def read_a_clip(path: Path):
    return read_clip(str(path), ClipFormat([32, 32], 8, 17))


# The name of a file, what is in it, and what reads it.
READERS: dict[str, tuple[Callable[[], bytes], Callable]] = {
    "a.yaml": (lambda: (REPOSITORY / "configs/tiny_t2v.yaml").read_bytes(), read_configuration),
    "study.yaml": (lambda: (REPOSITORY / "configs/studies/order_of_convergence.yaml").read_bytes(), read_study),
    "a.txt": (lambda: "a red circle\n\na 🎬 moves\n".encode(), read_text),
    "prompts.txt": (lambda: b"a red circle\na blue one\n", lambda path: read_prompts(str(path), None)),
    "metadata.jsonl": (lambda: b'{"file_name": "videos/a.mp4", "text": "a"}\n', read_parent),
    "metadata.csv": (lambda: b"file_name,text\nvideos/a.mp4,a\n", read_parent),
    "metadata.json": (lambda: json.dumps({"prompt": "a", "seed": 1}).encode(), lambda path: read_record(path.parent)),
    "a.png": (picture, load_image), "a.pt": (checkpoint, read_checkpoint),
    "lora.safetensors": (lora, read_lora),
    "latents.safetensors": (lambda: save({"latents": torch.ones(5, 4, 4, 4)}, {"fps": "8"}), load_latents),
}
damages = st.lists(st.tuples(st.sampled_from(["cut", "flip", "insert", "repeat"]), st.floats(0, 1, exclude_max=True),
                             st.binary(min_size=1, max_size=4)), min_size=1, max_size=3)


def damaged(content: bytes, damage: list) -> bytes:
    for kind, share, extra in damage:
        at = int(share * len(content))
        content = {"cut": content[:at], "flip": content[:at] + extra + content[at + len(extra):],
                   "insert": content[:at] + extra + content[at:], "repeat": content + content[at:]}[kind]
    return content


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_one_line(name, tmp_path, clips):
    make, read = READERS[name]
    content, path = make(), tmp_path / name
    (tmp_path / "videos").symlink_to(clips / "videos")
    path.write_bytes(content)
    read(path)  # whole, it can be read

    @settings(CASES, max_examples=40)
    @given(damages)
    def try_one(damage):
        path.write_bytes(damaged(content, damage))
        try:
            read(path)
        except Exception as error:
            assert message_of(error), (damage, repr(error))

    try_one()
    assert {found.name for found in tmp_path.iterdir()} == {name, "videos"}


def test_damaged_clips_are_one_line(clips, tmp_path):
    content, path = (clips / "videos/a.mp4").read_bytes(), tmp_path / "a.mp4"

    @settings(CASES, max_examples=15)
    @given(damages)
    def try_one(damage):
        path.write_bytes(damaged(content, damage))
        try:
            read_a_clip(path)
        except Exception as error:
            assert message_of(error), (damage, repr(error))

    try_one()
