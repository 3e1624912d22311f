"""One picture of several finished videos: they play side by side in an animated WebP, or stand a row each in a PNG.

    bash inference.sh configs/tiny_t2v.yaml --input-file docs/samples_prompts.txt --output-dir outputs/samples/t2v
    bash inference.sh configs/tiny_i2v.yaml --output-dir outputs/samples/i2v
    python tools/make_picture.py outputs/samples/t2v outputs/samples/i2v --out docs/samples.webp

The first two commands make the videos, the third the animated picture of README.md. The still one shows the videos of
`bash inference.sh`:

    python tools/make_picture.py outputs/tiny_t2v outputs/tiny_i2v --out docs/samples.png
"""
import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

from common.console import run
from common.errors import DataError
from common.files import whole_file
from media.clips import read_frames
from media.records import RECORD, foreign_record

# A still row of frames.
FRAMES, SCALE, MARGIN, CAPTION = 9, 1.5, 6, 22
# The grid of playing videos: columns, pixels a video is wide, and characters a line of its caption holds.
COLUMNS, TILE, GAP, LETTERS, LINES, LINE_HEIGHT = 6, 132, 8, 21, 3, 15
PAUSE = 900  # milliseconds for which the last frame stays


def read_video(folder: Path) -> tuple[np.ndarray, float]:
    """Return the frames (N, H, W, 3) of a finished video and its frames per second."""
    record = foreign_record(folder / RECORD)
    return read_frames(str(folder / "000000.mp4")), record["fps"]


def caption(folder: Path) -> str:
    """Return the prompt of a video; one that starts from an image says so."""
    record = foreign_record(folder / RECORD)
    return ("image + " if record.get("image") else "") + record["prompt"]


def row(folder: Path) -> Image.Image:
    """Return frames spread evenly over a video, side by side, with its prompt above them."""
    frames, _ = read_video(folder)
    frames = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    height, width = (round(side * SCALE) for side in frames.shape[1:3])
    strip = Image.new("RGB", (FRAMES * (width + MARGIN) + MARGIN, height + CAPTION + MARGIN), "white")
    ImageDraw.Draw(strip).text((MARGIN, 4), caption(folder), fill="black", font=ImageFont.load_default(13))
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(picture, (MARGIN + i * (width + MARGIN), CAPTION))
    return strip


def write_rows(folders: list[Path], out: Path) -> None:
    rows = [row(folder) for folder in folders]
    picture = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for strip in rows:
        picture.paste(strip, (0, top))
        top += strip.height
    picture.save(out)


def write_animation(folders: list[Path], out: Path) -> None:
    """Write a grid in which all videos play at once, each with its caption below it."""
    videos = [read_video(folder) for folder in folders]
    number = max(len(frames) for frames, _ in videos)
    columns = min(COLUMNS, len(videos))
    width, height = TILE + GAP, TILE + LINES * LINE_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * width + GAP, -(-len(videos) // columns) * height + GAP), "white")
    corners = [(GAP + i % columns * width, GAP + i // columns * height) for i in range(len(videos))]
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for folder, (left, top) in zip(folders, corners, strict=True):
        for i, line in enumerate(textwrap.wrap(caption(folder), LETTERS)):
            middle = left + TILE // 2
            draw.text((middle, top + TILE + 4 + i * LINE_HEIGHT), line, fill="#222222", font=font, anchor="ma")
    pictures = []
    for index in range(number):
        picture = sheet.copy()
        for (frames, _), corner in zip(videos, corners, strict=True):
            frame = Image.fromarray(frames[min(index, len(frames) - 1)])
            picture.paste(frame.resize((TILE, TILE), Image.Resampling.BICUBIC), corner)
        pictures.append(picture)
    durations = [round(1000 / videos[0][1])] * number
    durations[-1] = PAUSE
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=85, method=6)


def number_of(folder: Path) -> tuple:
    """Sort key: the model's folder, then the prompt's number, then the sample's."""
    return tuple([int(word) if word.isdigit() else word for word in re.split(r"(\d+)", str(folder))])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that sample_video.py wrote, in this order")
    parser.add_argument("--out", type=Path, required=True, help="a .webp file plays, a .png file stands still")
    options = parser.parse_args(argv)
    if options.out.suffix not in (".webp", ".png"):
        raise DataError(f"{options.out}: give a name that ends with .webp, which plays, or .png, which stands still")
    folders = []
    for outputs in options.outputs:
        folders += sorted((record.parent for record in outputs.rglob(RECORD)), key=number_of)
    if not folders:
        raise DataError(f"no finished videos below {', '.join(map(str, options.outputs))}")
    with whole_file(options.out) as path:
        (write_animation if options.out.suffix == ".webp" else write_rows)(folders, path)


if __name__ == "__main__":
    sys.exit(run(main))
