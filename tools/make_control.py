"""Make control clips of clips: what a model with control input follows (docs/control.md).

    python tools/make_control.py mask clip.mp4 --out control.mp4
    python tools/make_control.py edges data/mine/videos --out data/mine/controls

Of a folder, every clip below it is made a control clip of, under the same name. Frames keep their size and rate.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import av
import torch

from common.console import progress, run
from common.errors import DataError
from media.clip_folders import read_clip_folder
from media.clips import UnreadableClip, read_frames
from media.controls import CONTROLS, FROM_FILES, made_control
from media.videos import to_pixels, write_video

KINDS = [kind for kind in CONTROLS if kind != FROM_FILES]


def make_control(kind: str, source: Path, target: Path) -> None:
    """Write the control clip of a clip. Raises DataError if that cannot be read, or its rate is no whole number."""
    if target.suffix.lower() != ".mp4":
        raise DataError(f"{target}: control clips are written as mp4; give a name that ends with .mp4")
    if target.exists():
        raise DataError(f"{target} exists already; choose another --out, or delete it")
    frames, rate = read_all(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_video(target, [to_pixels(made_control(kind, frames).transpose(0, 1))], rate)


def read_all(path: Path) -> tuple[torch.Tensor, int]:
    """Return all frames (T, 3, H, W) of a clip in [-1, 1], and its rate."""
    try:
        frames = read_frames(str(path))
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except (av.FFmpegError, UnreadableClip) as problem:
        raise DataError(f"clip {path} cannot be read ({problem}); give a whole video file") from problem
    if rate is None or rate.denominator != 1:
        raise DataError(f"clip {path} has {rate} frames a second; a whole number is needed")
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1, rate.numerator


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS, help="what the control clip shows")
    parser.add_argument("source", type=Path, help="a clip, or a folder of clips")
    parser.add_argument("--out", type=Path, required=True, help="the file or folder to write")
    options = parser.parse_args(argv)
    if not options.source.is_dir():
        make_control(options.kind, options.source, options.out)
        return
    clips = [clip.video for clip in read_clip_folder(options.source).clips]
    for clip in progress(clips, "control clips", unit="clip"):
        target = options.out / clip.relative_to(options.source)
        make_control(options.kind, clip, target.with_suffix(".mp4"))


if __name__ == "__main__":
    sys.exit(run(main))
