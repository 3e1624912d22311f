"""Check the videos of a run: their number, size and length, and the files beside them.

    python .ci/check_videos.py OUTPUT_DIR --count 6 --frames 17 --size 64 64 --fps 8
"""
import argparse
import json
import sys
from pathlib import Path

import av


def faults(video: Path, args: argparse.Namespace) -> list[str]:
    """Return a message for everything that is wrong with one video."""
    with av.open(f"file:{video}", format="mp4") as container:
        frames = [(frame.height, frame.width) for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    found = {"frames": len(frames), "size": list(frames[0]), "fps": round(float(rate), 3)}
    wrong = [f"{video}: {key} is {found[key]}, expected {getattr(args, key)}"
             for key in found if found[key] != getattr(args, key)]
    wrong += [f"{video.parent} has no {name}" for name in ("frames.png", "metadata.json")
              if not (video.parent / name).is_file()]
    if not wrong and not json.loads((video.parent / "metadata.json").read_text(encoding="utf-8")).get("prompt"):
        wrong = [f"{video.parent / 'metadata.json'} has no prompt"]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True, help="the least number of videos")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--size", type=int, nargs=2, required=True, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--fps", type=float, required=True)
    args = parser.parse_args()
    videos = sorted(args.folder.rglob("*.mp4"))
    wrong = [fault for video in videos for fault in faults(video, args)]
    if len(videos) < args.count:
        wrong.append(f"{args.folder} holds {len(videos)} videos, expected at least {args.count}")
    for fault in wrong:
        sys.stderr.write(f"{fault}\n")
    sys.stdout.write(f"{len(videos)} videos of {args.frames} frames checked, {len(wrong)} faults\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
