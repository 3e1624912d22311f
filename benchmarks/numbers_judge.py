"""How well a model draws what captions with numbers and relations ask for, by regression of measured on asked numbers.

    python -m benchmarks.numbers_judge model                   # samples and judges (configs/tiny_numbers.yaml)
    python -m benchmarks.numbers_judge model runs/try/x.yaml   # the same with keys of a file or `key=value`
    python -m benchmarks.numbers_judge floors                  # rendered clips: as mp4, and through the autoencoder
    python -m benchmarks.numbers_judge videos OUTPUT_DIR       # every video below, against the prompt in metadata.json

Of each number the table says the mean absolute error, the slope of the measured against the asked number, and their
correlation. Radius, place and error are in pixels, speed in pixels a second. Shares that are right stand in per cent
with 95 % Wilson intervals; a clip in which no object can be followed is lost, and wrong in everything. Each kind of
what training never showed has a row. Videos and tables are written below `--out`.
"""
import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np

from benchmarks.command_line import count, refuse_given
from benchmarks.markdown import table
from benchmarks.scenes_judge import ATTRIBUTES, NUMBERS, Judged, judge_scene
from benchmarks.shapes_judge import asked_below, wilson_interval
from common.console import run
from common.errors import ConfigError, DataError
from common.files import whole_file
from common.listing import listed
from media.clips import UnreadableClip, read_frames
from media.videos import VIDEO, write_video
from tools.grammars import GRAMMARS, Scene, parse_scene, render_scene, scenes_of
from tools.numbers_world import NumberedShape
from tools.shapes_world import FPS

logger = logging.getLogger(__name__)

OVERLAY = "configs/tiny_numbers.yaml"
SCENES_SEED = 77  # of the captions that are judged: no seed of training clips
SEEN, SEVERAL = "seen", "several never seen"
FILES = {"model": "numbers.md", "floors": "numbers_floors.md", "videos": "numbers_videos.md"}
RESULTS = "results.json"
UNITS = {"radius": "px", "x": "px", "y": "px", "speed": "px/s"}

Results = Sequence[tuple[Scene, Judged]]


def regression(asked: Sequence[float], measured: Sequence[float]) -> tuple[float, float, float]:
    """Return mean absolute error, slope of measured against asked, and correlation; NaN where they are undefined.

    Pairs whose measured number is NaN are left out.
    """
    pairs = np.array([asked, measured], float)
    x, y = pairs[:, ~np.isnan(pairs[1])]
    if not len(x):
        return (float("nan"),) * 3
    error = float(np.abs(y - x).mean())
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return error, float("nan"), float("nan")
    return error, float(np.polyfit(x, y, 1)[0]), float(np.corrcoef(x, y)[0, 1])


def summary(results: Results) -> dict[str, str]:
    """Return a row of the table: videos, lost ones, shares that are right, and the regressions of numbers."""
    kind = type(results[0][0])
    row = {"videos": str(len(results)), "lost": str(sum(one.lost for _, one in results))}
    row |= {name: share([one.right[name] for _, one in results]) for name in ATTRIBUTES[kind]}
    row["all"] = share([one.all_right for _, one in results])
    if kind is NumberedShape:
        for name in NUMBERS:
            error, slope, correlation = regression([getattr(scene, name) for scene, _ in results],
                                                   [one.numbers[name] for _, one in results])
            row[f"{name}, {UNITS[name]}"] = f"{error:.2f} ({slope:.2f}, {correlation:.3f})".replace("nan", "–")
    return row


def share(right: Sequence[bool]) -> str:
    """Return the percentage of True with its 95 % Wilson interval."""
    low, high = wilson_interval(sum(right), len(right))
    return f"{100 * np.mean(right):.1f} ({100 * low:.0f}–{100 * high:.0f})"


def tables(label: str, results: Results) -> str:
    """Return a Markdown table for each grammar that occurs, with a row of what training shows, one of each kind that it
    never shows, and one of what it never shows in several ways."""
    parts = []
    for name in GRAMMARS:
        groups: dict[str, list] = {group: [] for group in (
            SEEN, *(f"{kind} never seen" for kind in GRAMMARS[name].kinds), SEVERAL)}
        for scene, one in results:
            if name_of_grammar(scene) == name:
                groups[group_of(scene)].append((scene, one))
        rows = [{label: group, **summary(found)} for group, found in groups.items() if found]
        if rows:
            parts.append(table(list(rows[0]), [list(row.values()) for row in rows]))
    return "\n\n".join(parts)


def group_of(scene: Scene) -> str:
    """Return the name of a scene's row."""
    if len(scene.unseen) > 1:
        return SEVERAL
    return f"{scene.unseen[0]} never seen" if scene.unseen else SEEN


def name_of_grammar(scene: Scene) -> str:
    """Return the name of a scene's grammar."""
    return "numbers" if isinstance(scene, NumberedShape) else "relations"


def chosen_scenes(name: str, videos: int) -> list[tuple[Scene, np.random.SeedSequence]]:
    """Return `videos` scenes of a grammar that training may show, and as many that it never shows."""
    root = [SCENES_SEED, list(GRAMMARS).index(name)]
    return [*scenes_of(name, False, videos, [*root, 0]), *scenes_of(name, True, videos, [*root, 1])]


def judge_file(path: Path, scene: Scene) -> Judged:
    """Judge an mp4 file. Raises DataError if it cannot be decoded or does not have the world's size."""
    try:
        return judge_scene(read_frames(str(path)), scene)
    except (UnreadableClip, ValueError) as problem:
        raise DataError(f"video {path} cannot be judged ({problem}): sample it again") from problem


def judge_model(options: argparse.Namespace, overrides: Sequence[str]) -> Iterator[str]:
    """Sample and judge the scenes of each grammar; yield the tables."""
    from benchmarks.small_model import configured, load_engine, make_videos  # late: SwissArmyTransformer takes seconds

    args = configured("t2v", [OVERLAY, *overrides])
    engine = load_engine(args)
    for name in options.grammars:
        scenes = [scene for scene, _ in chosen_scenes(name, options.videos)]
        videos = make_videos(engine, args, scenes, options.seed, Path(options.out) / name)
        found = [(scene, judge_file(video, scene)) for scene, video in videos]
        write_results(Path(options.out) / name / RESULTS, found)
        yield tables(name, found)


def write_results(path: Path, results: Results) -> None:
    """Write what was asked and what was found of each video as JSON, which numbers_plots.py reads."""
    rows = [{"caption": scene.caption, "right": dict(one.right), "lost": one.lost,
             "numbers": {name: None if np.isnan(value) else value for name, value in one.numbers.items()}}
            for scene, one in results]
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(rows, indent=0), encoding="utf-8")


def read_results(path: Path) -> list[tuple[Scene, Judged]]:
    """Return what `write_results` wrote. Raises DataError if it is not there."""
    if not path.is_file():
        raise DataError(f"there is no {path}; write it with python -m benchmarks.numbers_judge model")
    return [(parse_scene(row["caption"]), Judged(row["right"], {
        name: float("nan") if value is None else value for name, value in row["numbers"].items()}, row["lost"]))
            for row in json.loads(path.read_text(encoding="utf-8"))]


def judge_rendered(options: argparse.Namespace, overrides: Sequence[str]) -> Iterator[str]:
    """Judge rendered clips, written as mp4 only, and encoded and decoded before; yield the tables of both."""
    from benchmarks.small_model import configured, load_engine
    from benchmarks.studies.trained_model import reconstructed

    args = configured("t2v", overrides)
    engine = load_engine(args)
    for name in options.grammars:
        written, decoded = [], []
        with TemporaryDirectory() as folder:
            for scene, seed in chosen_scenes(name, options.videos):
                frames = render_scene(scene, np.random.default_rng(seed))
                write_video(Path(folder) / VIDEO, [frames], FPS)
                written.append((scene, judge_file(Path(folder) / VIDEO, scene)))
                video = reconstructed(engine, args, frames, Path(folder) / "decoded")
                decoded.append((scene, judge_file(video, scene)))
        yield tables(f"{name}, rendered", written)
        yield tables(f"{name}, encoded and decoded", decoded)


def judge_folders(folders: Sequence[str]) -> Iterator[str]:
    """Judge every video below folders against the prompt of the metadata.json beside it; yield the tables."""
    if not folders:
        raise ConfigError("videos: give an output folder of sampling")
    for folder in folders:
        asked, left_out = asked_below(folder, parse_scene)
        found = [(scene, judge_file(video, scene)) for video, scene in asked]
        if not found:
            raise DataError(f"no video below {folder} has a prompt with numbers or a relation: give an output folder "
                            "of sampling")
        if left_out:
            logger.warning("%s: %d video(s) left out, whose prompt has no numbers and no relation: %s", folder,
                           len(left_out), listed(left_out))
        yield tables(folder, found)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(FILES))
    parser.add_argument("--videos", type=count, default=96, metavar="N",
                        help="videos of each grammar of what training shows, and as many of what it never shows "
                        "(default: %(default)s)")
    parser.add_argument("--grammars", nargs="+", choices=list(GRAMMARS), default=list(GRAMMARS))
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--out", default="runs/numbers_judged",
                        help="folder of videos and tables (default: %(default)s)")
    options, others = parser.parse_known_args(argv)
    idle = {"videos": ("videos", "grammars", "seed"), "floors": ("seed",)}
    refuse_given(parser, options, idle.get(options.what, ()), f"on {options.what}")
    started = time.time()
    if options.what == "videos":
        made = judge_folders(others)
    else:
        made = (judge_model if options.what == "model" else judge_rendered)(options, others)
    text = "\n\n".join(made)
    Path(options.out).mkdir(parents=True, exist_ok=True)
    with whole_file(Path(options.out) / FILES[options.what]) as path:
        path.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n{time.time() - started:.0f} s\n")


if __name__ == "__main__":
    sys.exit(run(main))
