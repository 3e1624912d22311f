"""Files of a submission to VBench's leaderboard: named videos, their seeds, and what is said of the model."""
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.vbench_suite import Entry, Suite
from common.errors import DataError
from common.files import REPOSITORY, whole_file
from common.listing import listed as listed_names
from common.seeds import generator_for
from configuration.settings import Arguments
from configuration.yaml_files import plain
from inference.prompts import Prompt
from inference.sizes import VideoPlan
from media.records import VIDEO, read_record

VIDEOS, SAMPLED = "videos", "sampled"  # folders of the videos by name, and as sampling writes them
GROUPS = {"standard": 5, "flickering": 25}  # videos of a prompt


def publish(suite: Suite, args: Arguments, plan: VideoPlan, folder: Path) -> None:
    """Write videos/, videos.json and model_info.json of a sampled suite; a file is linked where the system can.

    Raises DataError if a video is missing.
    """
    videos, before = folder / VIDEOS, _listed_before(folder)
    videos.mkdir(parents=True, exist_ok=True)
    listed = [_published(path, entry, sample, videos) for path, entry, sample in sampled(suite, folder)]
    for name in before - {one["video"] for one in listed}:  # of prompts that are no longer in the suite
        (videos / name).unlink(missing_ok=True)
    _write(folder / "videos.json", listed)
    own, filled_in = model_info(args, plan), _read(folder / "model_info.json")
    filled_in = filled_in if isinstance(filled_in, dict) else {}
    _write(folder / "model_info.json", {key: filled_in.get(key) if value is None else value
                                        for key, value in own.items()})


def check_folder(suite: Suite, folder: Path) -> None:
    """Raise DataError if the folder of the named videos holds others, which are not of an earlier submission."""
    known = _listed_before(folder) | {_name(entry, sample) for _, entry, sample in sampled(suite, folder)}
    others = sorted(path.name for path in (folder / VIDEOS).glob("*.mp4") if path.name not in known)
    if others:
        raise DataError(f"{folder / VIDEOS} holds {len(others)} video(s) that are not of a submission "
                        f"({listed_names(others)}); choose another --out")


def _listed_before(folder: Path) -> set[str]:
    """Return the names of the videos of an earlier submission."""
    before = _read(folder / "videos.json")
    names = [one.get("video") for one in before if isinstance(one, dict)] if isinstance(before, list) else []
    return {name for name in names if isinstance(name, str) and Path(name).name == name}


def _read(path: Path) -> object:
    """Return what a file of an earlier submission holds, None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _name(entry: Entry, sample: int) -> str:
    return f"{entry.name}-{sample}.mp4"


def sampled(suite: Suite, folder: Path) -> Iterator[tuple[Path, Entry, int]]:
    """Yield each sampled video's folder, with its entry and the number of its sample."""
    for index, entry in enumerate(suite.entries):
        for sample in range(GROUPS["flickering" if entry.flickering else "standard"]):
            yield folder / SAMPLED / Prompt(index, entry.prompt).folder / str(sample), entry, sample


def _published(place: Path, entry: Entry, sample: int, videos: Path) -> dict:
    """Link or copy a video to its name; return what videos.json says of it."""
    record, target = read_record(place), videos / _name(entry, sample)
    if record is None or not (place / VIDEO).is_file():
        raise DataError(f"{place} has no finished video; start the run again, which makes what is missing")
    if not target.is_file() or not target.samefile(place / VIDEO):
        partial = videos / ".partial"  # short, where a name may take all that a file system allows
        partial.unlink(missing_ok=True)
        try:
            os.link(place / VIDEO, partial)
        except OSError:  # another file system
            shutil.copyfile(place / VIDEO, partial)
        os.replace(partial, target)
    seed = generator_for(record["seed"], record["prompt_index"], record["sample"], "noise").initial_seed()
    return {"video": target.name, "prompt": entry.prompt, "original_prompt": entry.name, "seed": seed,
            "run_seed": record["seed"], "prompt_index": record["prompt_index"], "sample": record["sample"],
            "sha256": record["files"][VIDEO]["sha256"]}


def model_info(args: Arguments, plan: VideoPlan) -> dict:
    """Return what the leaderboard lists of a model; what only its makers know is left for them to fill in."""
    model = plain(args.config)["model"]
    settings: Mapping = {key: model.get(key) for key in ("sampler_config", "denoiser_config")}
    return {"Model": None, "Evaluation Party": None, "Release Time": None,
            "Resolution": f"{plan.width}x{plan.height}", "FPS": plan.fps, "Frame Count": plan.frames,
            "Video Length": f"{plan.frames / plan.fps:.1f}s", "Checkpoint": args.run.load, "Code Commit ID": _commit(),
            "Video Format": "MP4", "Other Settings": {
                "negative_prompt": args.sampling.negative_prompt, "loras": [one._asdict() for one in args.run.loras],
                "dtype": str(args.run.dtype), "seeds": "one for each video, in videos.json", **settings}}


def _commit() -> str | None:
    """Return the commit of this code, None outside a repository."""
    try:
        return subprocess.run(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], check=True, capture_output=True,
                              text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _write(path: Path, content: object) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
