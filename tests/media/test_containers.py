"""Files are recognised by their first bytes, and what is no video is named for what it is."""
import pytest

from media.containers import UnreadableClip, clip_kind

NOT_VIDEOS = {
    b"": "an empty file", b"\0" * 4096: "zero bytes alone",
    b"#EXTM3U\n#EXTINF:1,\nhttp://a.b/c.ts\n": "a playlist", b"\xef\xbb\xbf\r\n #EXTM3U\n": "a playlist",
    b"[playlist]\nFile1=/etc/passwd\n": "a playlist", b"ffconcat version 1.0\nfile '/etc/passwd'\n": "a concat script",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 224.2.1.1\n": "a session description",
    b"<?xml version='1.0'?>\n<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>": "a DASH manifest",
    b"<?xml version='1.0'?><SmoothStreamingMedia>": "a manifest", b"<asx version='3.0'>": "a playlist",
    b"<!DOCTYPE html><html><body>404": "an HTML page", b"<html><head>": "an HTML page", b"<svg>": "a drawing",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n": "git lfs pull",
    b"\x89PNG\r\n\x1a\n\0\0": "a picture (PNG)", b"\xff\xd8\xff\xe0": "a picture (JPEG)",
    b"RIFF\0\0\0\0WEBPVP8 ": "a picture (WebP)", b"\0\0\0\x1cftypavif": "a picture (AVIF",
    b"RIFF\0\0\0\0WAVEfmt ": "sound alone", b"ID3\x04": "sound alone", b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\0\0\0\x01\x67\x42": "a bare stream", b"\x00\x05\x16\x07\0": "what macOS notes",
    b"a video of a cat": "a text file", b"file '/etc/passwd'\n": "a text file", b"\x80\x02\x7d\x71": "unknown format",
    b"img%03d.png": "a text file",
}


@pytest.mark.parametrize("head", NOT_VIDEOS)
def test_what_is_no_video_is_named(head):
    with pytest.raises(UnreadableClip) as problem:
        clip_kind(head)
    assert str(problem.value).startswith("not a video but ") and NOT_VIDEOS[head] in str(problem.value)


@pytest.mark.parametrize("head, kind", [
    (b"\0\0\0\x20ftypisom", "mov"), (b"\0\0\0\x08wide", "mov"), (b"\0\0\1\0moov", "mov"),
    (b"\0\0\0\x18stypmsdh", "mov"),
    (b"\x1aE\xdf\xa3\x9f", "matroska"), (b"RIFF\1\2\3\4AVI LIST", "avi"), (b"GIF89a", "gif"),
    ((b"G" + bytes(187)) * 5, "mpegts"), ((bytes(4) + b"G" + bytes(187)) * 5, "mpegts"), (b"\0\0\x01\xba", "mpeg"),
    (b"OggS", "ogg"), (b"FLV\x01", "flv"), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"), (b"\x06\x0e\x2b\x34", "mxf"),
])
def test_a_container_is_read_as_what_its_bytes_say(head, kind):
    assert clip_kind(head) == kind
