"""A video file read through PyAV: what its packets tell of its frames, and the decoded frames themselves."""
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av import CodecContext, Packet, VideoFrame
from av.stream import Disposition

from common.first_bytes import HEAD
from media.clip_format import CLOCK_ERROR, ClipFormat, covers
from media.containers import UnreadableClip, clip_kind, is_cut_off, names_another_file
from media.deinterlacing import deinterlaced
from media.display import is_plain

MOST_PIXELS = 2**26  # a frame of 8192 x 8192
_INDEXED = ("mov", "matroska")  # containers whose packets bear the times at which frames are shown
_ONE_FRAME_A_PACKET = ("h264", "hevc", "vp9", "av1", "mpeg4")  # codecs, in these containers
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders of WebM's transparency
_STREAMED = ("mpegts", "mpeg", "mpegvideo")  # containers that may start anywhere, before the first whole frame
_REPAIR = "get a whole copy, or cut it there"

av.logging.set_libav_level(av.logging.PANIC)  # errors are raised, and reported in one line


@dataclass(frozen=True)
class Account:
    """An account of a file by its packets and its first frame."""

    codec: str
    tracks: int  # of video
    aspect: Fraction  # width of a pixel by its height
    first: VideoFrame
    times: np.ndarray | None  # (N, 2) seconds, start and end of each frame; None if only decoding can tell
    is_closed: bool  # each key frame comes before all that are shown after it, so that decoding may start at any

    @property
    def is_plain(self) -> bool:
        return self.tracks == 1 and is_plain(self.first, self.aspect)


@dataclass(frozen=True)
class _Mark:
    """The account of one packet; times are in units of the stream."""

    start: int | None
    duration: int
    is_key: bool
    is_hidden: bool  # by an edit list, or because it is not whole


class ClipFile:
    """A video file of a known kind, opened anew for each passage through it. No other file is ever opened."""

    def __init__(self, file: BinaryIO):
        """Look at the file's first bytes; raises UnreadableClip for what is not a video."""
        self.file = file
        file.seek(0)
        self.kind = clip_kind(file.read(HEAD))
        self.cut_off = is_cut_off(file, self.kind)
        self.clock_error = 6e-3 if self.kind == "gif" else CLOCK_ERROR  # GIF rounds times to hundredths of a second

    @contextmanager
    def _stream(self) -> Iterator[tuple[Any, Any]]:
        """Context manager that gives container and video stream; errors of the file are raised as UnreadableClip."""
        self.file.seek(0)
        try:
            with av.open(self.file, "r", format=self.kind, options={"max_pixels": str(MOST_PIXELS)},
                         metadata_errors="replace", io_open=_refuse) as container:
                yield container, _shown(container)
        except (av.FFmpegError, ValueError, OverflowError) as problem:
            raise UnreadableClip(f"damaged or not a video ({_reason(problem)})") from problem

    def account(self) -> Account:
        """Go through all packets, and decode one frame."""
        marks, first = [], None
        with self._stream() as (container, stream):
            decode = _decoder(stream)
            for packet in container.demux(stream):
                if first is None:
                    first = _first_whole(decode, packet)
                if packet.size:
                    marks.append(_Mark(packet.pts, packet.duration or 0, packet.is_keyframe,
                                       packet.is_discard or packet.is_corrupt))
            if first is None:
                raise UnreadableClip(self._why_none())
            codec = stream.codec_context.codec.canonical_name
            telling = self.kind in _INDEXED and codec in _ONE_FRAME_A_PACKET and not self.cut_off and (
                self.kind != "mov" or stream.frames in (0, len(marks)))
            times = _times_of(marks, stream.time_base) if telling else None
            return Account(codec, len(container.streams.video), _aspect(stream), first, times, _is_closed(marks))

    def _why_none(self) -> str:
        if self.kind == "mov" and names_another_file(self.file):
            return "its frames are in another file, which is not opened: save it as a self-contained movie"
        return "damaged: none of its frames can be decoded"

    def frames(self) -> Iterator[VideoFrame]:
        """Yield the frames that a player shows, in order; raises UnreadableClip with the time of a damage."""
        with self._stream() as (container, stream):
            whole = self._decoded(container, stream)
            first = next(whole, None)
            if first is None:
                raise UnreadableClip(self._why_none())
            shown = _chained(first, whole)
            yield from deinterlaced(shown, stream) if first.interlaced_frame else shown

    def _decoded(self, container, stream) -> Iterator[VideoFrame]:
        start, last, packets, decode = None, 0.0, 0, _decoder(stream)
        for packet in container.demux(stream):
            packets += packet.size > 0
            try:
                for frame in decode(packet):
                    if frame.is_corrupt:
                        raise av.InvalidDataError(0, "a frame is not whole")
                    start = frame.time or 0.0 if start is None else start
                    last = (frame.time or 0.0) - start
                    yield frame
            except av.FFmpegError as problem:
                if start is None and (self.kind in _STREAMED or packets > 1):
                    continue  # frames that a cut has left without those they build on
                where = "breaks off" if packet.is_corrupt else "damaged"
                raise UnreadableClip(f"{where} after {last:.2f} s: {_REPAIR}") from problem
        if self.cut_off or self.kind == "mov" and packets < stream.frames:
            raise UnreadableClip(f"breaks off after {last:.2f} s: {_REPAIR}")

    def decoded_times(self, form: ClipFormat) -> np.ndarray:
        """Return start and end of each frame, (N, 2) seconds, of as many as `form` needs, by decoding them."""
        ticks = self._decoding_times() if self.kind == "avi" else None
        starts: list[float] = []
        duration, in_order = 0.0, True
        for index, frame in enumerate(self.frames()):
            time = frame.time if ticks is None else ticks[index] if index < len(ticks) else None
            starts.append(math.nan if time is None else time)
            if ticks is None and frame.duration and frame.time_base:
                duration = float(frame.duration * frame.time_base)
            in_order = in_order and (len(starts) < 2 or starts[-1] > starts[-2])
            if in_order and covers(starts, form):
                break
        return with_ends(self._in_order(starts), duration)

    def _decoding_times(self) -> list[float]:
        """Return when each frame is decoded, in seconds; AVI has no other times, and frames are shown at the same."""
        with self._stream() as (container, stream):
            ticks = [packet.dts for packet in container.demux(stream) if packet.size and packet.dts is not None]
            return [float(tick * stream.time_base) for tick in sorted(ticks)]

    def _in_order(self, starts: Sequence[float]) -> np.ndarray:
        """Return increasing times: those of an even rate if the file's own are missing or run backwards."""
        if np.isfinite(starts).all() and (np.diff(starts) > 0).all():
            return np.array(starts)
        with self._stream() as (_, stream):
            rate = stream.average_rate or stream.base_rate
        if not rate:
            raise UnreadableClip("its frames have no times: wrap it with ffmpeg -r RATE -i CLIP -c copy OUT.mp4")
        return np.arange(len(starts)) / float(rate)


def with_ends(starts: np.ndarray, last: float) -> np.ndarray:
    """Return start and end of each frame, (N, 2), of which the last is shown for `last` seconds, if that is known."""
    gaps = np.diff(starts)
    typical = float(np.median(gaps)) if len(gaps) else 0.0
    return np.stack([starts, np.append(starts[1:], starts[-1] + (last if last > 0 else typical))], 1)


def _times_of(marks: Sequence[_Mark], unit: Fraction) -> np.ndarray | None:
    """Return start and end of each frame; None unless every packet is a whole frame that a player shows."""
    starts = [mark.start for mark in marks if mark.start is not None and not mark.is_hidden]
    if not marks or len(set(starts)) < len(marks) or not marks[0].is_key or min(starts) < starts[0]:
        return None
    last = max(marks, key=lambda mark: mark.start or 0)
    return with_ends(np.array(sorted(starts)) * float(unit), last.duration * float(unit))


def _is_closed(marks: Sequence[_Mark]) -> bool:
    key = -math.inf
    for mark in marks:
        if mark.start is None or mark.start < key:
            return False
        key = mark.start if mark.is_key else key
    return True


def _shown(container):
    """Return the video stream that players show; raises UnreadableClip if there is none, or it cannot be decoded."""
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        raise UnreadableClip("holds sound alone, no video" if container.streams.audio else "holds no video")
    stream = max(videos, key=lambda video: bool(video.disposition & Disposition.default))
    if stream.codec_context is None:
        raise UnreadableClip("its codec cannot be read: re-encode it with "
                             "ffmpeg -i CLIP -c:v libx264 -pix_fmt yuv420p OUT.mp4")
    height, width = stream.codec_context.height, stream.codec_context.width
    if height * width * max(_aspect(stream), 1 / _aspect(stream)) > MOST_PIXELS:
        raise UnreadableClip(f"its frames of {width} x {height} pixels are more than can be read: make it smaller")
    stream.thread_type = "NONE"  # one thread a file, because the loader's workers read in parallel
    return stream


def _aspect(stream) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def _decoder(stream) -> Callable[[Packet], Sequence[VideoFrame]]:
    """Return a function from a packet to frames; the usual decoders leave out the transparency of WebM."""
    codec = stream.codec_context.codec.canonical_name
    if stream.metadata.get("alpha_mode") != "1" or codec not in _WITH_ALPHA:
        return lambda packet: packet.decode()
    decoder: Any = CodecContext.create(_WITH_ALPHA[codec], "r")
    decoder.options = {"max_pixels": str(MOST_PIXELS)}
    return lambda packet: decoder.decode(packet if packet.size else None)


def _first_whole(decode: Callable[[Packet], Sequence[VideoFrame]], packet: Packet) -> VideoFrame | None:
    try:
        return next((frame for frame in decode(packet) if not frame.is_corrupt), None)
    except av.FFmpegError:
        return None


def _chained(first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    yield first
    yield from rest


def _refuse(url: str, *_: Any) -> None:
    raise UnreadableClip(f"it names another file ({url}), which is not opened")


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem).strip() or type(problem).__name__
