"""Videos and contact sheets of a run. PyAV encodes, in this process, so that no encoder can be left behind."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError, NumericalError
from common.files import WholeFiles, whole_file, whole_files
from media.records import VIDEO

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video import VideoStream

SHEET = "frames.png"
# Constant rate factor of H.264: 0 is lossless, 18 is commonly called visually lossless.
QUALITY = 8
ENCODER: Final = "libx264"
BT709, LIMITED = 1, 1  # the numbers of ITU-T H.273 for primaries, transfer and matrix; of ffmpeg for the range
THREADS = 4  # the same on every machine, since the file depends on them
SHEET_FRAMES = 24
SHEET_COLUMNS = 6


@dataclass(frozen=True)
class EncodedForm:
    """The way in which a video is encoded: how its pixels are stored, and how long x264 searches for a small file."""

    pixels: str = "yuv420p"
    preset: str = "medium"


FOR_PLAYERS = EncodedForm()
EXACT_COLORS = EncodedForm("yuv444p", "veryfast")  # for training data, since few players show it


def check_encoder() -> None:
    """Raise ConfigError if no video can be encoded here."""
    remedy = "pip install av, whose wheels for Linux have it"
    try:
        from av.codec.codec import Codec, UnknownCodecError
    except ImportError as error:
        raise ConfigError(f"writing videos needs PyAV, which cannot be loaded ({error}): {remedy}") from error
    try:
        Codec(ENCODER, "w")
    except UnknownCodecError as error:
        raise ConfigError(f"writing videos needs PyAV with the encoder {ENCODER}, which this one lacks: {remedy}"
                          ) from error


def to_pixels(frames: Tensor) -> np.ndarray:
    """Convert frames (3, t, H, W) in [-1, 1] to (t, H, W, 3) of 8 bits. Raises NumericalError if any is not finite."""
    if not torch.isfinite(frames).all():
        raise NumericalError("decoding: the frames are not finite; decode in a wider dtype (bf16 or fp32)")
    unit = frames.float().clamp(-1, 1).add(1).div(2)
    return unit.mul(255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def write_video(path: Path, chunks: Iterable[np.ndarray], fps: int, form: EncodedForm = FOR_PLAYERS) -> None:
    """Write consecutive chunks (t, H, W, 3) of 8 bits as H.264, each as it comes; the file appears when it is whole.

    Raises DataError if it cannot be encoded or written, ValueError without frames.
    """
    with whole_file(path) as partial:
        _encode(partial, chunks, fps, path, form)


def write_lossless(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write frames (t, H, W, 3) of 8 bits as FFV1 in Matroska, from which a reader gets every value back."""
    import av
    with av.open(f"file:{path}", "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _encode(partial: Path, chunks: Iterable[np.ndarray], fps: int, path: Path, form: EncodedForm = FOR_PLAYERS) -> None:
    """Write an mp4 under a temporary name, and read it back: every frame must be there, in the size that was sent."""
    import av
    check_encoder()
    sent = 0
    stream = None
    try:
        with av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
            for chunk in chunks:
                stream = stream or _add_stream(container, chunk.shape[2], chunk.shape[1], fps, form)
                for frame in chunk:
                    container.mux(stream.encode(_to_yuv(frame, sent, fps, form)))
                    sent += 1
            if stream is None:
                raise ValueError("a video needs at least one frame")
            container.mux(stream.encode(None))
        found = _shapes(partial)
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    if found != [(stream.height, stream.width)] * sent:
        raise DataError(f"{path} was not written whole: {len(found)} of {sent} frames can be read back; make it again")


def _add_stream(container: OutputContainer, width: int, height: int, fps: int, form: EncodedForm) -> VideoStream:
    """Return an H.264 stream whose colours are tagged as BT.709 in limited range, which all players understand."""
    # With its macroblock tree, x264's files of the same frames differ: it reads memory that it has not written.
    options = {"crf": str(QUALITY), "mbtree": "0", "preset": form.preset}
    stream = container.add_stream(ENCODER, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, form.pixels
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED
    context.thread_type, context.thread_count = "FRAME", THREADS  # slices would cost quality
    return stream


def _to_yuv(frame: np.ndarray, number: int, fps: int, form: EncodedForm) -> VideoFrame:
    """Convert a frame (H, W, 3) with the matrix of BT.709; an odd side repeats its last line."""
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace, Interpolation
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
    yuv = VideoFrame.from_ndarray(even, format="rgb24").reformat(
        format=form.pixels, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=exact)
    yuv.pts, yuv.time_base, yuv.duration = number, Fraction(1, fps), 1
    return yuv


def _shapes(path: Path) -> list[tuple[int, int]]:
    """Return height and width of each frame of a file, decoding them all. Raises av.FFmpegError."""
    import av
    with av.open(f"file:{path}", format="mp4") as container:
        return [(frame.height, frame.width) for frame in container.decode(video=0)]


def write_outputs(folder: Path, chunks: Iterable[Tensor], fps: int, files: WholeFiles | None = None) -> None:
    """Write the mp4 of decoded chunks (3, t, H, W), and its contact sheet.

    Both appear together at the end, or with the others of `files`.
    """
    frames: list[np.ndarray] = []

    def pixels() -> Iterator[np.ndarray]:
        for chunk in chunks:
            frames.append(to_pixels(chunk))
            yield frames[-1]

    with nullcontext(files) if files is not None else whole_files() as written:
        with written.writing(folder / VIDEO) as video:
            _encode(video, pixels(), fps, folder / VIDEO)
        with written.writing(folder / SHEET) as sheet:
            _save_contact_sheet(sheet, np.concatenate(frames))


def _save_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """Write a picture of at most 24 frames, evenly spread over the video and tiled row by row."""
    from PIL import Image
    count = min(len(frames), SHEET_FRAMES)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    Image.fromarray(tiled(chosen, min(count, SHEET_COLUMNS))).save(path)


def tiled(frames: np.ndarray, columns: int) -> np.ndarray:
    """Return one picture with frames (n, H, W, 3) tiled row by row, and white lines of two pixels around them."""
    rows = -(-len(frames) // columns)
    height, width = frames.shape[1:3]
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        sheet[top:top + height, left:left + width] = frame
    return sheet
