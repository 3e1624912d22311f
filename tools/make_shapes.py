"""Write clips of the shapes world in the layout that training reads: `videos/NAME.mp4`, `labels/NAME.txt`.

    python tools/make_shapes.py --out data/shapes/train --clips 4000
    python tools/make_shapes.py --out data/shapes/valid --clips 216 --split heldout-clips
    python tools/make_shapes.py --out data/shapes/unseen --clips 72 --split unseen

    python tools/make_shapes.py --out data/shapes/orange --clips 360 --split outside
    python tools/make_shapes.py --out data/shapes/numbers --clips 4000 --grammar numbers
    python tools/make_shapes.py --out data/shapes/relations --clips 4000 --grammar relations

`train` and `heldout-clips` draw the same 90 combinations of colour, shape and motion, but never the same clip. `unseen`
draws the 18 combinations that training never shows, and `outside` draws shapes of a colour that the world does not
have. `--colors green` and `--backgrounds gray` restrict the combinations. All occur equally often, and the same
arguments give the same clips. The other grammars draw each clip's contents at random; `unseen` then has the numbers and
combinations that training never shows, each kind equally often (see numbers_world.py and relations_world.py). Each
process writes about 30 clips per second on one core of a small machine.
"""

import argparse
import logging
import multiprocessing
import os
import signal
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
from tools.grammars import GRAMMARS, Scene, render_scene, scenes_of

SPLITS = ("train", "heldout-clips", "unseen", "outside")
FIRST = "motions"  # the grammar of shapes_world

Clip = tuple[str, shapes_world.Combination | Scene, np.random.SeedSequence]


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


def plan_scenes(grammar: str, split: str, count: int, seed: int) -> list[Clip]:
    """Return name, scene and seed of every clip of another grammar; clip `i` does not depend on `count`."""
    root = [seed, SPLITS.index(split), 1 + list(GRAMMARS).index(grammar)]
    scenes = scenes_of(grammar, split == "unseen", count, root)
    return [(f"{prefix_of(grammar, split)}{index:06d}", *scene) for index, scene in enumerate(scenes)]


def prefix_of(grammar: str, split: str) -> str:
    """Return what the names of a grammar's clips of a split begin with."""
    return f"{split}_" if grammar == FIRST else f"{grammar}_{split}_"


def make_clip(clip: Clip, out: Path) -> None:
    name, scene, seed = clip
    (out / "labels" / f"{name}.txt").write_text(scene.caption + "\n", encoding="utf-8")
    rng = np.random.default_rng(seed)
    if isinstance(scene, shapes_world.Combination):
        frames = shapes_world.render(scene, rng)
    else:
        frames = render_scene(scene, rng)
    # Nearly lossless (above 40 dB), with colour at full size, so that models do not learn what encoders lose.
    write_video(out / "videos" / f"{name}.mp4", [frames], shapes_world.FPS, EXACT_COLORS)


def prepare_folder(out: Path, prefix: str, overwrite: bool) -> None:
    """Create `videos/` and `labels/`; with `overwrite`, remove earlier clips whose names begin with `prefix`.

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
                if path.name.startswith(prefix):
                    path.unlink()
    except OSError as problem:
        raise DataError(f"cannot write to {out} ({problem.strerror}); choose another --out") from problem


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write videos/ and labels/ to")
    parser.add_argument("--clips", type=int, default=4000, help="number of clips (default: 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--grammar", choices=[FIRST, *GRAMMARS], default=FIRST,
                        help="what the captions say (default: %(default)s)")
    parser.add_argument("--colors", nargs="+", choices=shapes_world.COLORS, help="only these colours")
    parser.add_argument("--backgrounds", nargs="+", choices=shapes_world.BACKGROUNDS, help="only these backgrounds")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--overwrite", action="store_true", help="replace the clips of this split")
    args = parser.parse_args(argv)
    if args.colors and args.split == "outside":
        parser.error("--colors cannot be used with --split outside, which has a colour of its own")
    if args.grammar != FIRST and (args.colors or args.backgrounds or args.split == "outside"):
        parser.error(f"--colors, --backgrounds and --split outside are of --grammar {FIRST} alone")
    if args.clips < 1 or args.processes < 1 or args.seed < 0:
        parser.error("--clips and --processes must be at least 1, --seed at least 0")
    return args


def _end_at_once() -> None:
    """Have SIGTERM end this worker, as its pool expects; with the handler of the parent it may never end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        prepare_folder(args.out, prefix_of(args.grammar, args.split), args.overwrite)
        clips: Sequence[Clip] = (plan_clips(args.split, args.clips, args.seed, args.colors, args.backgrounds)
                                 if args.grammar == FIRST else
                                 plan_scenes(args.grammar, args.split, args.clips, args.seed))
        with multiprocessing.Pool(args.processes, _end_at_once) as pool:
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
