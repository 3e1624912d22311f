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


def test_lines_end_where_files_end_them_and_nowhere_else(tmp_path):
    path = tmp_path / "p.txt"
    told = "one\u2028still one\r\ntwo\x85\x0b\x0cstill two\rthree\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(told.encode(encoding))
        assert [p.text for p in read_prompts(str(path), None)] == [
            "one\u2028still one", "two\x85\x0b\x0cstill two", "three"]
    path.write_bytes(b"x" * 1_000_000 + b"\nshort")
    assert [len(p.text) for p in read_prompts(str(path), None)] == [1_000_000, 5]


@pytest.mark.parametrize("written", ["a b.png", "'a b.png'", '"a b.png"', "~/a b.png", "pictures\\a b.png",
                                     '"pictures\\a b.png"', "“a b.png”"])
def test_paths_as_people_write_them(tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    for folder in (tmp_path, tmp_path / "pictures"):
        (folder / "a b.png").write_bytes(b"")
    (tmp_path / "p.txt").write_text(f"a dog @@ {written} \n", encoding="utf-8")
    (prompt,) = read_prompts(str(tmp_path / "p.txt"), "image")
    assert prompt.image == str(tmp_path / ("pictures" if "pictures" in written else "") / "a b.png")


def test_a_file_is_found_whose_name_has_the_marks(tmp_path):
    for name in ('"quoted".png', "a@@b.png", "back\\slash.png"):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / "p.txt").write_text(f"a dog@@{name}")
        assert read_prompts(str(tmp_path / "p.txt"), "image")[0].image == str(tmp_path / name)


def test_images_are_found_beside_the_prompt_file(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"")
    (tmp_path / "p.txt").write_text("a dog@@a b.png\n")
    (prompt,) = read_prompts(str(tmp_path / "p.txt"), "image")
    assert prompt.text == "a dog" and prompt.image == str(tmp_path / "a b.png") and prompt.clip is None
    (prompt,) = read_prompts(str(tmp_path / "p.txt"), "clip")
    assert prompt.clip == str(tmp_path / "a b.png") and prompt.image is None


def test_a_video_may_end_with_a_picture(tmp_path):
    for name in ("a.png", "b c.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "p.txt").write_text("a dog@@a.png @@ b c.png\na cat@@a.png\n")
    both, first = read_prompts(str(tmp_path / "p.txt"), "image")
    assert (both.image, both.last) == (str(tmp_path / "a.png"), str(tmp_path / "b c.png")) and first.last is None


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
    (tmp_path / "p.txt").write_text("one@@" + "a" * 1_000_000)
    with pytest.raises(DataError, match="image a{200} does not exist"):
        read_prompts(str(tmp_path / "p.txt"), "image")
    with pytest.raises(DataError, match="a dog .* does not exist; .*; a prompt itself goes into a file, or is typed"):
        read_prompts("a dog runs through the snow " * 20, None)


@pytest.mark.parametrize("content, source, says", [
    (b"", None, "has no prompts"),
    (b"# only\n\n", None, "has no prompts"),
    (b"\xff\xd8\xff\xe0 picture", None, "line 1: not UTF-8 text"),
    (b"a\0b", None, "not text"),
    (b"one\ntwo@@x.png", None, "line 2: @@ names an image or a clip"),
    (b"one", "image", "line 1: this model needs an image"),
    (b"one@@", "image", "line 1: this model needs an image"),
    (b"one@@nowhere.png", "image", "line 1: image nowhere.png does not exist"),
    (b"one", "clip", "line 1: a run with args.strength, args.invert or args.continue_from needs a clip"),
    (b"one@@nowhere.mp4", "clip", "line 1: clip nowhere.mp4 does not exist"),
    (b"@@a.png", "image", "line 1: the text before @@ is missing"),
    (b"one@@a.png@@b.png@@c.png", "image", "line 1: @@ stands there 3 times; a prompt starts from one image and"),
    (b"one@@a.png@@b.png", "image", "line 1: image a.png does not exist"),
    (b"one@@a.mp4@@b.mp4", "clip", "line 1: @@ stands there 2 times; a prompt starts from one clip"),
    (b"one@@p.txt@@", "image", "line 1: a path after @@ is missing"),
    (b"one@@.", "image", "line 1: image . is a folder; name a file after @@"),
    (b"one@@~nobody_at_all/a.png", "image", "line 1: image ~nobody_at_all/a.png does not exist"),
    ("eins\nein Käfer".encode("latin-1"), None, "p.txt, line 2: not UTF-8 text; save the file as UTF-8"),
    ("一只狗".encode("gbk"), None, "p.txt, line 1: not UTF-8 text"),
])
def test_files_that_do_not_fit(tmp_path, content, source, says):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_prompts(str(tmp_path / "p.txt"), source)


def typed(monkeypatch, content: bytes) -> list:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    return [(p.index, p.text) for p in ask_prompts(None)]


def test_typed_prompts_end_with_an_empty_line(monkeypatch):
    assert typed(monkeypatch, b"one\nwrong@@x.png\ntwo\n\nthree\n") == [(0, "one"), (1, "two")]
    assert typed(monkeypatch, b"one\r\ntwo\r\n\r\nthree") == [(0, "one"), (1, "two")]
    assert typed(monkeypatch, b"one\rtwo") == [(0, "one"), (1, "two")]
    assert typed(monkeypatch, b"") == []


def test_typed_bytes_that_are_no_text_are_told_and_typing_goes_on(monkeypatch, caplog):
    assert typed(monkeypatch, "one\nein Käfer\n".encode("latin-1") + b"a\0b\nlast\n") == [(0, "one"), (1, "last")]
    assert [record.getMessage() for record in caplog.records] == [
        f"input {shown} is not UTF-8 text and is left out; set the terminal to UTF-8"
        for shown in ("'ein K\ufffdfer'", "'a\\x00b'")]
    assert typed(monkeypatch, "ein Käfer\nzwei\n".encode("utf-16")) == [(0, "ein Käfer"), (1, "zwei")]


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
