"""Clips of a folder with their captions: every layout, and what is odd about it."""
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from media.clip_folders import folded, label_path, read_clip_folder


def make(root: Path, **files) -> Path:
    """Write files by their path, with text or bytes."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def read(root: Path, **settings) -> dict[str, str]:
    return {clip.video.relative_to(root).as_posix(): clip.caption for clip in read_clip_folder(root, **settings).clips}


LAYOUTS = {
    "labels": {"videos/a.mp4": "", "videos/deep/b.mov": "", "labels/a.txt": "one", "labels/deep/b.txt": "two"},
    "beside": {"videos/a.mp4": "", "videos/deep/b.mov": "", "videos/a.txt": "one", "videos/deep/b.TXT": "two"},
    "prompts": {"videos/a.mp4": "", "videos/deep/b.mov": "", "videos.txt": "videos/a.mp4\r\nvideos/deep/b.mov\r\n\r\n",
                "prompts.txt": "one\ntwo\n"},
    "prompts below videos": {"videos/a.mp4": "", "videos/deep/b.mov": "", "videos.txt": "a.mp4\ndeep/b.mov",
                             "prompts.txt": "one\ntwo"},
    "csv": {"videos/a.mp4": "", "videos/deep/b.mov": "",
            "metadata.csv": "\ufefffile_name,text\nvideos/a.mp4,one\nvideos/deep/b.mov,two\n"},
    "csv of a spreadsheet": {"videos/a.mp4": "", "videos/deep/b.mov": "",
                             "metadata.csv": "video;caption\r\n.\\videos\\a.mp4;one\r\n\r\ndeep\\b.mov;two\r\n"},
    "jsonl": {"videos/a.mp4": "", "videos/deep/b.mov": "", "metadata.jsonl":
              '{"file_name": "videos/a.mp4", "prompt": "one", "fps": 8}\n\n'
              '{"file_name": "videos/deep/b.mov", "prompt": "two"}'},
    "jsonl in videos": {"videos/a.mp4": "", "videos/deep/b.mov": "", "videos/metadata.jsonl":
                        '{"path": "a.mp4", "caption": "one"}\n{"path": "deep/b.mov", "caption": "two"}\n'},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_clips_and_captions(tmp_path, layout):
    make(tmp_path, **LAYOUTS[layout])
    assert read(tmp_path) == {"videos/a.mp4": "one", "videos/deep/b.mov": "two"}
    assert read_clip_folder(tmp_path).oddities == []


def test_a_caption_is_the_whole_file_with_white_space_folded():
    text = "\n\n  A dog \u2028 runs\tthrough\r\n\r\nthe snow.\x0c\rIt barks. "
    assert folded(text) == "A dog runs through the snow. It barks."
    assert folded(text, "first") == "A dog runs through"
    assert folded("\n \n") == folded("", "first") == ""


def test_captions_in_every_encoding_that_can_be_known(tmp_path):
    make(tmp_path, **{f"{i}.mp4": "" for i in range(3)}, **{
        f"{i}.txt": "ein Käfer".encode(encoding) for i, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16"))})
    assert set(read(tmp_path).values()) == {"ein Käfer"}
    make(tmp_path, **{"1.txt": "erste\nein Käfer".encode("latin-1"), "2.txt": "一只狗".encode("gbk")})
    with pytest.raises(DataError, match=r"caption file .*1.txt, line 2: not UTF-8 text; .* \(2 caption files are no t"):
        read(tmp_path)


def test_labels_may_lie_outside_of_the_folder_and_accents_be_composed_otherwise(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    make(tmp_path, **{f"videos/{decomposed}.mp4": "", f"labels/{composed}.txt": "one", "videos/a.mp4": "",
                      "labels/a.txt": "two"})
    assert set(read(tmp_path).values()) == {"one", "two"}
    assert read(tmp_path / "videos")["a.mp4"] == "two"
    assert label_path(Path("/x/videos/y/videos/z/n.mp4")) == Path("/x/videos/y/labels/z/n.txt")
    assert label_path(Path("/x/y/n.mp4")) == Path("/x/y/n.txt")


def test_links_to_folders_are_followed_once(tmp_path):
    make(tmp_path, **{"disk/a.mp4": "", "disk/a.txt": "one"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "videos").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "data")
    assert read(tmp_path / "data") == {"videos/a.mp4": "one"}


def test_what_is_odd_is_counted_and_named(tmp_path):
    make(tmp_path, **{
        "videos/a.mp4": "", "videos/a.mov": "", "videos/b.mp4": "", "labels/a.txt": "one", "labels/b.txt": " \n",
        "labels/c.txt": "of no clip", "videos/d.jpg": "", "videos/e.vid": "", "videos/f.png": "", "g.bin": "",
        "videos/._a.mp4": "", ".cache/h.mp4": ""})
    found = read_clip_folder(tmp_path)
    assert [clip.caption for clip in found.clips] == ["one", "one", ""]
    shared, empty, lonely, unread = found.oddities
    assert shared == "2 clips share a caption file with another clip of the same name: a.mov, a.mp4"
    assert (empty, lonely) == ("1 caption files are empty: b.txt", "1 caption files belong to no clip: c.txt")
    assert unread.startswith("4 files are not used, because the formats read are .mp4, ")
    assert unread.endswith(": g.bin, d.jpg, e.vid and 1 more")


def test_a_list_goes_before_caption_files_and_says_so(tmp_path):
    make(tmp_path, **{"far.mp4": ""})
    root = make(tmp_path / "data", **LAYOUTS["labels"], **{
        "videos/c.mp4": "",
        "metadata.csv": "file_name,text\na.mp4,listed\na.mp4,listed\nnowhere.mp4,x\n../far.mp4,y\n"})
    found = read_clip_folder(root)
    assert found.captions_from == "metadata.csv" and [clip.caption for clip in found.clips] == ["listed", "listed", "y"]
    assert [sentence.replace(str(root), "…") for sentence in found.oddities] == [
        "1 clips that metadata.csv names are not there: nowhere.mp4", "1 lines of metadata.csv are repeated: a.mp4",
        "1 clips lie outside of …: …/../far.mp4",
        "2 clips are not used, because metadata.csv does not name them: c.mp4, b.mov",
        "2 other files are not used, because captions are those of metadata.csv: a.txt, b.txt"]


@pytest.mark.parametrize("files, says", [
    ({}, "contains no clip: put clips into .*videos, as .mp4, .m4v, "),
    ({"a.jpg": ""}, r"contains no clip.*; it has 1 files, a.jpg"),
    ({"videos/a.mp4": "", "labels/a.txt": "one", "videos/a.txt": "two"}, "has two captions, .*; keep one of them"),
    ({"metadata.csv": "", "metadata.jsonl": ""}, "has several lists of clips, .*metadata.csv, .*metadata.jsonl; keep"),
    ({"videos.txt": "a.mp4\n"}, "videos.txt stands without prompts.txt"),
    ({"videos.txt": "a.mp4\nb.mp4\n", "prompts.txt": "one\n"}, "videos.txt has 2 lines, prompts.txt 1"),
    ({"videos.txt": "a.mp4\n\nb.mp4", "prompts.txt": "one\ntwo\nthree"}, "videos.txt, line 2 is blank, but"),
    ({"metadata.csv": "name,text\na.mp4,one\n"}, "has no file_name or video or video_path or path; its columns"),
    ({"metadata.csv": "file_name,label\na.mp4,1\n"}, "has no text or prompt or caption; its columns are file_name"),
    ({"metadata.csv": "file_name,text,caption\na.mp4,1,2\n"}, "has text and caption; say with data.params.txt_key"),
    ({"metadata.csv": "file_name,text\na.mp4,a dog, running\n"}, "line 2 has 3 columns and the header has 2; put"),
    ({"metadata.csv": 'file_name,text\na.mp4,"a dog\n'}, "metadata.csv, line 2: not a CSV table"),
    ({"metadata.csv": "file_name,text\na.mp4," + "x" * 200_000}, "metadata.csv, line 2: not a CSV table"),
    ({"metadata.csv": "file_name,text\na.mp4,ein Käfer".encode("latin-1")}, "metadata.csv, line 2: not UTF-8"),
    ({"metadata.csv": ""}, "metadata.csv names no clip; write a line for each"),
    ({"metadata.csv": "file_name,text\n"}, "metadata.csv names no clip; write a line for each"),
    ({"metadata.csv": "file_name,text,text\na.mp4,1,2\n"}, "line 1: two columns are named text; rename one"),
    ({"metadata.jsonl": '{"file_name": "a.mp4", "text": "one"}\n{"file_name": '}, "metadata.jsonl, line 2: not JSON"),
    ({"metadata.jsonl": '{"file_name": "a.mp4", "text": "\\ud83d x"}'}, "line 1: half a character of two"),
    ({"metadata.jsonl": '["a.mp4", "one"]'}, "metadata.jsonl, line 1: not an object"),
    ({"metadata.jsonl": "[" * 100_000}, "metadata.jsonl, line 1: not JSON"),
    ({"metadata.jsonl": '{"file_name": "a.mp4", "text": ["one", "two"]}'}, r'text is \["one", "two"\] \(a list\)'),
    ({"metadata.jsonl": '{"file_name": 7, "text": "one"}'}, "line 1: file_name is 7"),
    ({"metadata.jsonl": '{"file_name": " ", "text": "one"}'}, "line 1: file_name is empty"),
    ({"metadata.jsonl": '{"file_name": "a.mp4", "text": "one"}'}, "names no clip that is there, the first is a.mp4"),
])
def test_what_cannot_be_read_is_one_line(tmp_path, files, says):
    with pytest.raises(DataError, match=says) as raised:
        read_clip_folder(make(tmp_path, **files))
    assert "\n" not in str(raised.value)


def test_a_blank_after_a_comma_does_not_make_quotation_marks_part_of_a_caption(tmp_path):
    make(tmp_path, **{"a.mp4": "", "metadata.csv": 'file_name, text\na.mp4, "a dog, running"\n'})
    assert read(tmp_path) == {"a.mp4": "a dog, running"}


def test_a_list_may_compose_accents_otherwise_than_the_file(tmp_path):
    make(tmp_path, **{"Ka\u0308fer.mp4": "", "metadata.csv": "file_name,text\nK\u00e4fer.mp4,a beetle\n"})
    assert list(read(tmp_path).values()) == ["a beetle"]


def test_the_column_of_the_caption_can_be_named(tmp_path):
    make(tmp_path, **{"a.mp4": "", "metadata.csv": "file_name,text,caption\na.mp4,short,long\n"})
    assert read(tmp_path, caption_column="caption") == {"a.mp4": "long"}
    (tmp_path / "metadata.csv").rename(tmp_path / "else.csv")
    assert read_clip_folder(tmp_path, caption_column="caption").oddities[0].startswith(
        "data.params.txt_key is caption, which is not used: the folder has no list")
    (tmp_path / "else.csv").rename(tmp_path / "metadata.csv")
    with pytest.raises(DataError, match="has no story; its columns are file_name, text, caption"):
        read(tmp_path, caption_column="story")


SOUND = {"metadata.csv": b'file_name,text\nvideos/a.mp4,"one, two"\nb.mp4,two\n',
         "metadata.jsonl": b'{"file_name": "a.mp4", "text": "one"}\n{"file_name": "b.mp4", "text": null}\n',
         "videos.txt": b"a.mp4\nb.mp4\n", "a.txt": "ein Käfer\n".encode("utf-16")}
ODD = [b"\0", b"\xff", b'"', b",", b"\n", b"\r", b"{", b"[" * 3000, b"9" * 5000, b"\xff\xfe", b"~nobody/", b"../", b"/"]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(SOUND)), st.lists(st.tuples(st.floats(0, 1), st.sampled_from([None, *ODD])), max_size=4))
def test_damaged_text_is_one_line_or_read(name, changes):
    content = SOUND[name]
    for place, inserted in changes:
        cut = int(place * len(content))
        content = content[:cut] if inserted is None else content[:cut] + inserted + content[cut:]
    with TemporaryDirectory() as folder:
        make(Path(folder), **{"a.mp4": "", "b.mp4": "", "prompts.txt": "one\ntwo\n", name: content})
        try:
            clips = read_clip_folder(Path(folder)).clips
        except DataError as problem:
            assert len(str(problem).splitlines()) == 1
        else:
            assert clips and all("\0" not in clip.caption and "\ufffd" not in clip.caption for clip in clips)
