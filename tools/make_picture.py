"""One picture of several videos, a row each: `python tools/make_picture.py outputs --out docs/samples.png`."""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
from decord import VideoReader
from PIL import Image, ImageDraw, ImageFont

FRAMES, SCALE, MARGIN, CAPTION = 9, 1.5, 6, 22


def row(folder: Path) -> Image.Image:
    """Evenly spread frames of a finished video, its prompt above them."""
    record = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    reader = VideoReader(str(folder / "000000.mp4"))
    frames = reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).round().astype(int)).asnumpy()
    height, width = (round(side * SCALE) for side in frames.shape[1:3])
    strip = Image.new("RGB", (FRAMES * (width + MARGIN) + MARGIN, height + CAPTION + MARGIN), "white")
    text = record["prompt"] + (" (from the first picture)" if record.get("image") else "")
    ImageDraw.Draw(strip).text((MARGIN, 4), text, fill="black", font=ImageFont.load_default(13))
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((width, height), Image.LANCZOS)
        strip.paste(picture, (MARGIN + i * (width + MARGIN), CAPTION))
    return strip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that sample_video.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders = sorted(record.parent for folder in options.outputs for record in folder.rglob("metadata.json"))
    if not folders:
        sys.stderr.write(f"error: no finished videos below {', '.join(map(str, options.outputs))}\n")
        return 2
    rows = [row(folder) for folder in folders]
    picture = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for strip in rows:
        picture.paste(strip, (0, top))
        top += strip.height
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
