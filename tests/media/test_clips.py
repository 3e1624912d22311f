"""Clips of many containers and codecs are read as players show them, and what is no whole clip is named."""
import io

import pytest
import torch

from media import clips
from media.clip_format import ClipFormat
from tests.media.made_clips import FRAMES, H264, RATE, make, numbers_of

FORM = ClipFormat((48, 64), RATE, FRAMES)
LONG = ClipFormat((48, 64), RATE, 33)
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-bf", "2")
KINDS = {
    "plain.mp4": H264, "fragments.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "dash.mp4": (*H264, "-movflags", "+dash+frag_keyframe+empty_moov+default_base_moof"),
    "indexed.mp4": (*H264, "-movflags", "+dash+frag_keyframe+delay_moov+global_sidx"),
    "vp9.mp4": ("-c:v", "libvpx-vp9", "-deadline", "realtime"), "av1.mp4": ("-c:v", "libsvtav1", "-preset", "12"),
    "hevc.mov": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:bframes=2"),
    "alt_ref.webm": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "10", "-b:v", "900k"),
    "plain.mkv": H264, "lossless.mkv": ("-c:v", "ffv1"), "packed.avi": ("-c:v", "libxvid", "-bf", "2", "-q:v", "2"),
    "plain.avi": ("-c:v", "mpeg4", "-bf", "2", "-q:v", "2"), "pictures.avi": ("-c:v", "mjpeg", "-q:v", "2"),
    "plain.gif": (), "plain.ts": H264, "plain.m2ts": H264, "plain.mpg": MPEG2, "plain.vob": MPEG2, "plain.mxf": MPEG2,
    "plain.ogv": ("-c:v", "libtheora", "-q:v", "9"), "plain.flv": H264, "plain.wmv": ("-c:v", "wmv2", "-q:v", "2"),
    "prores.mov": ("-c:v", "prores"), "animation.mov": ("-c:v", "qtrle"),
    "deep.mp4": (*H264, "-pix_fmt", "yuv420p10le"), "full.mp4": (*H264, "-pix_fmt", "yuv444p"),
    "interlaced.mp4": (*H264, "-flags", "+ilme+ildct", "-vf", "setfield=tff"),
    "early.mkv": (*H264, "-output_ts_offset", "-0.2", "-avoid_negative_ts", "disabled"),
    "late.mp4": (*H264, "-output_ts_offset", "5"), "open.mkv": (*H264, "-x264-params", "open-gop=1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def plain(folder):
    return make(folder / "first.mp4", *H264, "-movflags", "+faststart")


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_read_once_and_in_order(name, tmp_path):
    path = make(tmp_path / name, *KINDS[name])
    clip, real = clips.read_clip(str(path), LONG)
    assert real == FRAMES == clips.count_frames(str(path), LONG)
    assert numbers_of(clip) == [*range(FRAMES), *[FRAMES - 1] * (33 - FRAMES)]
    with path.open("rb") as stream:
        assert torch.equal(clips.read_clip(io.BytesIO(stream.read()), LONG)[0], clip)
    assert clips.probe_clip(str(path), FORM)[:2] == (48, 64)
