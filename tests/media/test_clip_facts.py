"""Facts about clips' files: remembered while the files stay as they are, found anew otherwise."""
import json
import os

import pytest

from media import clip_facts
from media.clip_facts import copies, digest_of, gather
from media.clips import ClipFormat
from tests.test_data_video import ramp, write_video

FORM = ClipFormat((32, 32), 8, 9)


def noted(names, function):
    def call(path, *given):
        names.append(os.path.basename(path))
        return function(path, *given)
    return call


@pytest.fixture
def opened(monkeypatch):
    """The names of the clips that are opened, and of those whose bytes are read."""
    names = []
    for function in ("probe_clip", "digest_of"):
        monkeypatch.setattr(clip_facts, function, noted(names, getattr(clip_facts, function)))
    return names


def test_clips_are_opened_again_only_if_they_changed(tmp_path, opened):
    memory = tmp_path / "cache" / "clips.json"
    videos = [write_video(tmp_path / f"{name}.mp4", ramp(count)) for name, count in (("a", 9), ("b", 5))]
    first = gather(videos, FORM, memory)
    assert [(known.height, known.width, known.frames) for known in first] == [(32, 32, 9), (32, 32, 5)]
    assert [known.digest for known in first] == [digest_of(video) for video in videos]
    opened.clear()
    assert gather(videos, FORM, memory) == first and opened == []
    times = videos[1].stat()
    write_video(videos[1], ramp(9))
    os.utime(videos[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert gather(videos, FORM, memory)[1].frames == 9 and opened == ["b.mp4", "b.mp4"]
    opened.clear()
    other = ClipFormat((32, 32), 4, 5)
    assert gather(videos, other, memory)[0].frames == 5 and sorted(opened) == ["a.mp4", "b.mp4"]
    opened.clear()
    assert gather(videos, FORM, memory)[0] == first[0] and gather(videos, other, memory)[0].frames == 5 and not opened


def test_a_damaged_memory_is_made_again_and_clips_that_cannot_be_read_are_tried_again(tmp_path):
    memory = tmp_path / "clips.json"
    memory.write_text("{")
    video = tmp_path / "a.mp4"
    video.write_bytes(b"no video")
    assert gather([video, tmp_path / "missing.mp4"], FORM, memory)[0].problem
    write_video(video, ramp(9))
    (known,) = gather([video], FORM, memory)
    assert known.frames == 9 and json.loads(memory.read_text())[str(video)]["digest"] == known.digest


def test_without_a_memory_only_clips_of_equal_size_are_compared(tmp_path, opened):
    videos = [write_video(tmp_path / f"{name}.mp4", ramp(count)) for name, count in (("a", 9), ("b", 5))]
    for name, content in (("c", videos[0].read_bytes()), ("d", bytes(videos[0].stat().st_size))):
        videos.append(tmp_path / f"{name}.mp4")
        videos[-1].write_bytes(content)
    facts = gather(videos, FORM)
    assert not any(known.digest for known in facts)
    opened.clear()
    assert copies(videos, facts) == [videos[2]] and sorted(opened) == ["a.mp4", "c.mp4"]
