"""Clips of many containers and codecs are read as players show them, and what is no whole clip is named."""
import io

import numpy as np
import pytest
import torch

from media import clips, decord_frames
from media.clip_format import ClipFormat
from media.containers import UnreadableClip
from tests.media.made_clips import FRAMES, H264, RATE, ffmpeg, make, numbers_of

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
    assert real == FRAMES == clips.probe_clip(str(path), LONG)[2]
    assert numbers_of(clip) == [*range(FRAMES), *[FRAMES - 1] * (33 - FRAMES)]
    with path.open("rb") as stream:
        assert torch.equal(clips.read_clip(io.BytesIO(stream.read()), LONG)[0], clip)
    assert clips.probe_clip(str(path), FORM)[:2] == (48, 64)


OPEN = ("-c:v", "libx264", "-g", "8", "-bf", "3", "-x264-params", "open-gop=1")


@pytest.mark.parametrize("suffix, options", [("mp4", H264), ("mp4", OPEN), ("mov", H264), ("mkv", H264), ("mkv", OPEN),
                                             ("ts", H264), ("avi", OPEN)])
def test_a_cut_without_encoding_shows_what_players_show(suffix, options, folder):
    whole = make(folder / f"whole{len(options)}.mp4", *options)
    for start in (0.1, 0.36, 0.5):
        path = folder / f"cut.{suffix}"
        ffmpeg("-ss", start, "-i", whole, "-c", "copy", path)
        shown = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
        frames = np.frombuffer(shown, np.uint8).reshape(-1, 48, 64, 3)
        clip, real = clips.read_clip(str(path), FORM)
        assert numbers_of(clip[:real]) == [round((frame.mean() - 20) / 12) for frame in frames]
        assert suffix not in ("mp4", "mov") or numbers_of(clip[:1]) == [round(start * RATE + 0.01)]


def test_frames_are_taken_at_their_true_times(tmp_path):
    path = make(tmp_path / "a.mkv", *H264, "-vf", "setpts='if(lt(N,8),N,2*N-8)/25/TB'", "-fps_mode", "passthrough")
    clip, real = clips.read_clip(str(path), LONG)
    assert real == 25 and numbers_of(clip[:25]) == [*range(8), *(n for n in range(8, 16) for _ in "ab"), 16]
    sparse, real = clips.read_clip(str(path), ClipFormat((48, 64), RATE / 4, 9, skip_frms_num=1))
    assert numbers_of(sparse[:real]) == [1, 5, 8, 10, 12, 14]


@pytest.mark.parametrize("gop", ["open-gop=1:keyint=8", "open-gop=0:keyint=8"])
def test_decord_and_pyav_read_the_same(gop, tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", "-c:v", "libx264", "-bf", "3", "-x264-params", gop)
    forms = [ClipFormat((48, 64), rate, 9, skip_frms_num=skip) for rate in (25, 12.5, 8, 60) for skip in (0, 1)]
    used = []
    monkeypatch.setattr(clips, "decord_frames", lambda *a: used.append(a) or decord_frames.decord_frames(*a))
    usual = [clips.read_clip(str(path), form)[0] for form in forms]
    monkeypatch.setitem(__import__("sys").modules, "decord", None)  # as where there is no package of it
    for form, clip in zip(forms, usual, strict=True):
        assert torch.equal(clips.read_clip(str(path), form)[0], clip)
    assert used


QUARTERS = np.zeros((48, 64, 3), np.uint8)
QUARTERS[:24, :32], QUARTERS[:24, 32:], QUARTERS[24:, :32] = 250, (250, 0, 0), (0, 0, 250)


@pytest.mark.parametrize("turn", [("-display_rotation", 90), ("-display_rotation", 180), ("-display_rotation", -90),
                                  ("-display_rotation", 90, "-display_hflip"), ("-display_vflip",)])
def test_a_clip_is_turned_as_players_turn_it(turn, folder):
    upright = folder / "upright.mp4"
    if not upright.exists():
        make(upright, "-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv444p", frames=np.stack([QUARTERS] * 3))
    path = folder / "turned.mp4"
    ffmpeg(*turn, "-i", upright, "-c", "copy", path)
    height, width, *_ = clips.probe_clip(str(path), FORM)
    shown = ffmpeg("-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(shown, np.uint8).reshape(height, width, 3).astype(int)
    clip, _ = clips.read_clip(str(path), ClipFormat((height, width), RATE, 1))
    assert np.abs((clip[0].permute(1, 2, 0).numpy() + 1) * 127.5 - expected).max() <= 1
    assert (height, width) == ((64, 48) if 90 in turn or -90 in turn else (48, 64))


@pytest.mark.parametrize("suffix, ratio, size", [("mp4", "2/1", (48, 128)), ("mkv", "1/2", (96, 64)),
                                                 ("webm", "4/3", (48, 85)), ("avi", "2/1", (48, 128))])
def test_pixels_are_squared_before_the_crop(suffix, ratio, size, tmp_path):
    picture = np.full((5, 48, 64, 3), 20, np.uint8)
    picture[:, 12:36, 16:48] = 230  # half the height, half the width
    path = make(tmp_path / f"a.{suffix}", "-vf", f"setsar={ratio}", frames=picture)
    assert clips.probe_clip(str(path), FORM)[:2] == size
    clip, _ = clips.read_clip(str(path), ClipFormat((48, 48), RATE, 1))
    white = clip[0, 0] > 0
    scale = max(48 / size[0], 48 / size[1])
    assert abs(int(white[24].sum()) - min(48, size[1] * scale / 2)) <= 3
    assert abs(int(white[:, 24].sum()) - size[0] * scale / 2) <= 3


COLORS = {  # matrix and range of the file, its size, and whether it says so
    "bt709, tagged": ("bt709", "tv", (48, 64), True), "bt601, tagged": ("smpte170m", "tv", (48, 64), True),
    "bt709, full": ("bt709", "pc", (48, 64), True), "bt601, full": ("smpte170m", "pc", (48, 64), True),
    "small, untagged": ("smpte170m", "tv", (48, 64), False), "hd, untagged": ("bt709", "tv", (720, 64), False),
    "bt2020": ("bt2020nc", "tv", (48, 64), True),
}


@pytest.mark.parametrize("name", COLORS)
def test_colours_are_those_that_players_show(name, tmp_path):
    matrix, levels, size, tagged = COLORS[name]
    tags = ("-colorspace", matrix, "-color_range", levels) if tagged else ()
    untagged = "" if tagged else ",setparams=colorspace=unknown:range=unknown"
    scaled = f"scale=out_color_matrix={matrix.removesuffix('nc')}:out_range={levels},format=yuv420p{untagged}"
    frames = np.broadcast_to(np.array([220, 40, 40], np.uint8), (2, *size, 3))
    path = make(tmp_path / "a.mp4", *H264, "-vf", scaled, *tags, frames=frames)
    clip, _ = clips.read_clip(str(path), ClipFormat((16, 16), RATE, 1))
    assert np.abs((clip[0].mean((1, 2)).numpy() + 1) * 127.5 - [220, 40, 40]).max() <= 4


@pytest.mark.slow
def test_high_dynamic_range_is_reduced(tmp_path):
    frames = np.stack([QUARTERS] * 2)
    wide = ("zscale=pin=709:tin=709:min=709:rin=full:p=2020:t=arib-std-b67:m=2020_ncl:r=limited:npl=203,"
            "format=yuv420p10le")
    path = make(tmp_path / "a.mp4", "-vf", wide, "-c:v", "libx264", "-crf", "4", "-color_primaries", "bt2020",
                "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc", frames=frames)
    clip, _ = clips.read_clip(str(path), ClipFormat((48, 64), RATE, 1))
    corner = (clip[0, :, 12, 48].numpy() + 1) * 127.5  # as it is, a dull 171, 77, 41
    assert corner[0] > 225 and corner[1:].max() < 90


@pytest.mark.parametrize("name, options", [("a.webm", ("-c:v", "libvpx-vp9")), ("a.gif", ()),
                                           ("b.webm", ("-c:v", "libvpx", "-auto-alt-ref", "0")),
                                           ("a.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"))])
def test_what_is_transparent_is_white(name, options, tmp_path):
    then = {"webm": "format=yuva420p", "gif": "split[a][b];[a]palettegen[p];[b][p]paletteuse",
            "mov": "format=yuva444p10le"}[name[2:]]
    path = make(tmp_path / name, "-vf", f"format=rgba,geq=r=200:g=0:b=0:a='if(lt(X,32),255,0)',{then}", *options)
    clip, _ = clips.read_clip(str(path), FORM)
    left, right = clip[3, :, 24, 10], clip[3, :, 24, 54]
    assert left[0] > 0.35 and left[1:].max() < -0.8 and right.min() > 0.95


def test_half_pictures_become_whole_ones(tmp_path):
    """A moving edge shows a comb where its two fields are of different moments, and none once they are joined."""
    frames = np.full((6, 48, 64, 3), 40, np.uint8)
    for number, frame in enumerate(frames):
        frame[::2, :8 * number + 4], frame[1::2, :8 * number + 8] = 200, 200
    path = make(tmp_path / "a.mp4", "-c:v", "libx264", "-flags", "+ilme+ildct", "-x264-params", "tff=1", frames=frames)
    clip, real = clips.read_clip(str(path), FORM)
    joined = ffmpeg("-i", path, "-vf", "bwdif=send_frame", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = torch.from_numpy(np.frombuffer(joined, np.uint8).reshape(6, 48, 64, 3).copy()) / 127.5 - 1
    assert real == 6 and (clip[1:6] - expected.permute(0, 3, 1, 2)[1:]).abs().max() < 0.05
    assert (clip[3] - torch.from_numpy(frames[3].copy()).permute(2, 0, 1) / 127.5 + 1).abs().max() > 0.5


def test_the_track_that_players_show_is_read(plain, tmp_path):
    other = make(tmp_path / "other.mp4", *H264, frames=np.full((9, 96, 32, 3), 200, np.uint8))
    ffmpeg("-f", "lavfi", "-i", "sine=d=2", tmp_path / "sound.wav")
    ffmpeg("-i", other, "-i", plain, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "0",
           "-disposition:v:1", "default", tmp_path / "two.mkv")
    ffmpeg("-i", plain, "-frames:v", "1", tmp_path / "cover.png")
    ffmpeg("-i", tmp_path / "cover.png", "-i", tmp_path / "sound.wav", "-i", plain, "-map", "0", "-map", "1", "-map",
           "2", "-c:v", "copy", "-disposition:v:0", "attached_pic", tmp_path / "cover.mp4")
    ffmpeg("-i", tmp_path / "cover.png", "-i", tmp_path / "sound.wav", "-map", "0", "-map", "1", "-c:v", "copy",
           "-disposition:v:0", "attached_pic", tmp_path / "song.mp4")
    for name in ("two.mkv", "cover.mp4"):
        clip, real = clips.read_clip(str(tmp_path / name), FORM)
        assert numbers_of(clip) == [*range(FRAMES)] and real == FRAMES
    with pytest.raises(UnreadableClip, match="sound alone"):
        clips.read_clip(str(tmp_path / "song.mp4"), FORM)


@pytest.mark.parametrize("suffix, says", [("mp4", "breaks off after"), ("mkv", "breaks off after"),
                                          ("gif", "breaks off after"), ("avi", "breaks off after"),
                                          ("mov", "damaged or not a video")])
def test_a_clip_that_breaks_off_is_named_if_what_is_missing_is_wanted(suffix, says, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    whole = make(tmp_path / f"a.{suffix}", *(("-movflags", "+faststart") if suffix == "mp4" else ()), frames=frames)
    path = tmp_path / f"b.{suffix}"
    path.write_bytes(whole.read_bytes()[:whole.stat().st_size * 3 // 5])
    with pytest.raises(UnreadableClip, match=says):
        clips.read_clip(str(path), ClipFormat((48, 64), RATE, 41))
    if suffix != "mov":  # whose index lies at its end
        assert clips.read_clip(str(path), ClipFormat((48, 64), RATE, 9))[1] == 9


def test_a_clip_damaged_midway_is_named_with_the_time(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (50, 48, 64, 3), np.uint8)
    path = make(tmp_path / "a.mp4", *H264, "-movflags", "+faststart", frames=frames)
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 9000] = bytes(9000)
    path.write_bytes(data)
    with pytest.raises(UnreadableClip, match=r"damaged after (0\.[89]|1\.0)\d s"):
        clips.read_clip(str(path), ClipFormat((48, 64), RATE, 49))
    assert clips.read_clip(str(path), ClipFormat((48, 64), RATE, 17))[1] == 17


def test_a_codec_without_decoder_is_named_with_the_remedy(plain, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(plain.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(UnreadableClip, match="codec.*re-encode it with ffmpeg -i CLIP"):
        clips.read_clip(str(path), FORM)


def test_a_frame_larger_than_any_is_refused_before_memory_is_taken(tmp_path):
    path = make(tmp_path / "a.gif")
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(UnreadableClip, match="none of its frames can be decoded"):
        clips.read_clip(str(path), FORM)
    wide = make(tmp_path / "a.mp4", *H264, "-vf", "setsar=60000/1", frames=np.zeros((2, 720, 1280, 3), np.uint8))
    with pytest.raises(UnreadableClip, match="1280 x 720 pixels are more than can be read"):
        clips.read_clip(str(wide), FORM)


def test_no_other_file_is_opened(plain, tmp_path):
    """Even if a file passed for a playlist, the decoder could not open what it names."""
    path = tmp_path / "a.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{plain}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UnreadableClip, match="not a video but a playlist"):
        clips.read_clip(str(path), FORM)
    with path.open("rb") as file, pytest.raises(UnreadableClip, match="names another file|not a video"):
        clip = clips.ClipFile.__new__(clips.ClipFile)
        clip.file, clip.kind, clip.cut_off = file, "hls", False
        clip.account()


def test_frames_that_lie_in_another_file_are_told(plain, tmp_path):
    data = bytearray(plain.read_bytes())
    kind, frames = data.index(b"url ", data.index(b"dref")), data.index(b"mdat") + 4
    data[kind + 7] = 0  # not self-contained
    length = int.from_bytes(data[frames - 8:frames - 4]) - 8
    data[frames:frames + length] = bytes(length)
    (tmp_path / "a.mov").write_bytes(data)
    with pytest.raises(UnreadableClip, match="its frames are in another file.*save it as a self-contained movie"):
        clips.read_clip(str(tmp_path / "a.mov"), FORM)


def test_all_frames_are_read_as_shown(plain):
    shown = torch.from_numpy(clips.read_frames(str(plain))).permute(0, 3, 1, 2) / 127.5 - 1
    assert numbers_of(shown) == [*range(FRAMES)]


def test_an_avi_that_breaks_off_between_frames_is_told(tmp_path):
    whole = make(tmp_path / "a.avi", "-c:v", "mjpeg")
    (tmp_path / "b.avi").write_bytes(whole.read_bytes()[:whole.read_bytes().index(b"00dc", 9000)])
    with pytest.raises(UnreadableClip, match="breaks off after"):
        clips.read_clip(str(tmp_path / "b.avi"), FORM)


@pytest.mark.parametrize("source, says", [("/dev/null", "not a file"), (".", "not a file"), ("no\0thing", "opened"),
                                          ("x" * 5000, "opened"), ("nowhere.mp4", "No such file")])
def test_what_cannot_be_opened_is_one_line(source, says):
    with pytest.raises(UnreadableClip, match=says):
        clips.read_clip(source, FORM)


def test_any_damage_is_an_unreadable_clip(plain, tmp_path):
    rng = np.random.default_rng(0)
    webm = make(tmp_path / "a.webm", "-c:v", "libvpx-vp9", "-deadline", "realtime")
    for source in (plain, webm, make(tmp_path / "a.gif"), make(tmp_path / "a.avi", "-c:v", "mpeg4")):
        for _ in range(25):
            data = bytearray(source.read_bytes())
            for at in rng.integers(0, len(data), rng.integers(1, 12)):
                data[at:at + 4] = rng.bytes(4)
            try:
                clips.read_clip(io.BytesIO(data[:rng.integers(1, 2 * len(data))]), FORM)
            except UnreadableClip as problem:
                assert "\n" not in str(problem)
