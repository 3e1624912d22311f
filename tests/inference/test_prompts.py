"""Tests of prompt files, typed prompts and the folder names made from them."""
import io
import os

import pytest

from common.errors import DataError
from inference.prompts import ask_prompts, clean_name, read_prompts


def test_blank_lines_and_comments_are_skipped(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\ufeff# comment\n\n  a red circle \n\t\n#x\nein Käfer\n", encoding="utf-8")
    assert [(p.index, p.text) for p in read_prompts(str(path), None)] == [(0, "a red circle"), (1, "ein Käfer")]


def test_images_are_found_beside_the_prompt_file(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"")
    (tmp_path / "p.txt").write_text("a dog@@a b.png\n")
    (prompt,) = read_prompts(str(tmp_path / "p.txt"), "image")
    assert prompt.text == "a dog" and prompt.image == str(tmp_path / "a b.png") and prompt.clip is None
    (prompt,) = read_prompts(str(tmp_path / "p.txt"), "clip")
    assert prompt.clip == str(tmp_path / "a b.png") and prompt.image is None


def test_a_pipe_is_read(monkeypatch):
    reading, writing = os.pipe()  # like bash's <(command)
    with open(reading) as pipe, open(writing, "w") as command:
        command.write("a red circle\na blue square\n")
        command.close()
        with monkeypatch.context() as several:
            several.setenv("WORLD_SIZE", "2")
            with pytest.raises(DataError, match="is a pipe, which several processes cannot all read"):
                read_prompts(f"/dev/fd/{pipe.fileno()}", None)
        assert [p.text for p in read_prompts(f"/dev/fd/{pipe.fileno()}", None)] == ["a red circle", "a blue square"]


def test_a_folder_is_no_prompt_file(tmp_path):
    with pytest.raises(DataError, match="is a folder; set args.input_file"):
        read_prompts(str(tmp_path), None)


@pytest.mark.parametrize("content, source, says", [
    (b"", None, "has no prompts"),
    (b"# only\n\n", None, "has no prompts"),
    (b"\xff\xd8\xff\xe0 picture", None, "not text"),
    (b"a\0b", None, "not text"),
    (b"one\ntwo@@x.png", None, "line 2: @@ names an image or a clip"),
    (b"one", "image", "line 1: this model needs an image"),
    (b"one@@", "image", "line 1: this model needs an image"),
    (b"one@@nowhere.png", "image", "line 1: image nowhere.png does not exist"),
    (b"one", "clip", "line 1: a run with args.strength or args.invert needs a clip"),
    (b"one@@nowhere.mp4", "clip", "line 1: clip nowhere.mp4 does not exist"),
])
def test_files_that_do_not_fit(tmp_path, content, source, says):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_prompts(str(tmp_path / "p.txt"), source)


def test_typed_prompts_end_with_an_empty_line(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\nwrong@@x.png\ntwo\n\nthree\n"))
    assert [(p.index, p.text) for p in ask_prompts(None)] == [(0, "one"), (1, "two")]


@pytest.mark.parametrize("text, name", [
    ("a red circle", "a_red_circle"),
    ("../../etc/passwd", "etc_passwd"),
    ("a/b\\c:d\0e\nf\x1b[31m", "a_b_c_d_e_f_31m"),
    ("...", "untitled"),
    ("日本 café, naïve", "日本_café,_naïve"),
    ("x" * 500, "x" * 120),
])
def test_folder_names_stay_inside_the_output_folder(text, name):
    assert clean_name(text) == name


def test_folder_names_fit_file_systems(tmp_path):
    name = clean_name("字" * 500)
    assert len(name) <= 120 and len(name.encode()) <= 200
    (tmp_path / f"100000_{name}").mkdir()
