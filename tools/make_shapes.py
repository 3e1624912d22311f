"""Write clips of the shapes world in the layout that training reads: `videos/NAME.mp4`, `labels/NAME.txt`.

    python tools/make_shapes.py --out data/shapes/train --clips 4000
    python tools/make_shapes.py --out data/shapes/valid --clips 216 --split heldout-clips
    python tools/make_shapes.py --out data/shapes/unseen --clips 72 --split unseen

    python tools/make_shapes.py --out data/shapes/orange --clips 360 --split outside

`train` and `heldout-clips` draw the same 90 combinations of colour, shape and motion, but never the same clip. `unseen`
draws the 18 combinations that training never shows, and `outside` draws shapes of a colour that the world does not
have. `--colors green` and `--backgrounds gray` restrict the combinations. All occur equally often, and the same
arguments give the same clips. Each process writes about 30 clips per second on one core of a small machine.
"""

import argparse
import logging
import multiprocessing
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

from common.errors import DataError, UserError
from media.videos import EXACT_COLORS, write_video
from tools import shapes_world

SPLITS = ("train", "heldout-clips", "unseen", "outside")


def plan_clips(
    split: str,
    count: int,
    seed: int,
    colors: Sequence[str] | None = None,
    backgrounds: Sequence[str] | None = None,
) -> list[tuple[str, shapes_world.Combination, np.random.SeedSequence]]:
    """Return name, combination and seed of every clip; clip `i` does not depend on `count`.

    `colors` and `backgrounds` are those that may occur, by default all of the world's.
    """
    shown = shapes_world.OUTSIDE if split == "outside" else colors or shapes_world.COLORS
    wanted = [c for c in shapes_world.all_combinations(shown) if c.held_out == (split == "unseen")]
    wanted = [c for c in wanted if c.background in (backgrounds or shapes_world.BACKGROUNDS)]
    root = [seed, SPLITS.index(split)]
    clips = []
    for index in range(count):
        if index % len(wanted) == 0:
            order = np.random.default_rng([*root, 0, index]).permutation(len(wanted))
        combination = wanted[order[index % len(wanted)]]
        clips.append((f"{split}_{index:06d}", combination, np.random.SeedSequence([*root, 1, index])))
    return clips


def make_clip(clip: tuple[str, shapes_world.Combination, np.random.SeedSequence], out: Path) -> None:
    name, combination, seed = clip
    (out / "labels" / f"{name}.txt").write_text(combination.caption + "\n", encoding="utf-8")
    frames = shapes_world.render(combination, np.random.default_rng(seed))
    # Nearly lossless (above 40 dB), with colour at full size, so that models do not learn what encoders lose.
    write_video(out / "videos" / f"{name}.mp4", [frames], shapes_world.FPS, EXACT_COLORS)


def prepare_folder(out: Path, split: str, overwrite: bool) -> None:
    """Create `videos/` and `labels/`; with `overwrite`, remove earlier clips of this split.

    Raises DataError if there are files and `overwrite` is False, or if the folder cannot be written to.
    """
    try:
        for name in ("videos", "labels"):
            (out / name).mkdir(parents=True, exist_ok=True)
            present = sorted((out / name).iterdir())
            if present and not overwrite:
                raise DataError(
                    f"{out / name} already holds {len(present)} files; "
                    "choose another --out, or replace the clips of this split with --overwrite"
                )
            for path in present:
                if path.name.startswith(f"{split}_"):
                    path.unlink()
    except OSError as problem:
        raise DataError(f"cannot write to {out} ({problem.strerror}); choose another --out") from problem


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write videos/ and labels/ to")
    parser.add_argument("--clips", type=int, default=4000, help="number of clips (default: 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--colors", nargs="+", choices=shapes_world.COLORS, help="only these colours")
    parser.add_argument("--backgrounds", nargs="+", choices=shapes_world.BACKGROUNDS, help="only these backgrounds")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--overwrite", action="store_true", help="replace the clips of this split")
    args = parser.parse_args(argv)
    if args.colors and args.split == "outside":
        parser.error("--colors cannot be used with --split outside, which has a colour of its own")
    if args.clips < 1 or args.processes < 1 or args.seed < 0:
        parser.error("--clips and --processes must be at least 1, --seed at least 0")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        prepare_folder(args.out, args.split, args.overwrite)
        clips = plan_clips(args.split, args.clips, args.seed, args.colors, args.backgrounds)
        with multiprocessing.Pool(args.processes) as pool:
            done = pool.imap_unordered(partial(make_clip, out=args.out), clips, chunksize=4)
            for _ in tqdm(done, total=len(clips), unit="clip", desc=args.split):
                pass
    except (UserError, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 2
    logging.getLogger(__name__).info("%d clips in %s", len(clips), args.out)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
