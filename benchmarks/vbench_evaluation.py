"""Evaluation of sampled videos by the package vbench, which is installed in an environment of its own."""
import json
import logging
import subprocess
from pathlib import Path

from common.errors import ConfigError, DataError

logger = logging.getLogger("vbench")

WITHOUT_DOWNLOAD = ("temporal_flickering",)  # the others fetch networks
# vbench's own command line asks for a CUDA device; its class takes any.
PROGRAM = """
import sys
import torch
from vbench import VBench
info, videos, out, dimension = sys.argv[1:]
device = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
VBench(device or torch.device("cpu"), info, out).evaluate(
    videos_path=videos, name=dimension, dimension_list=[dimension])
"""


def check_vbench(python: Path, names: Path | None) -> None:
    """Raise ConfigError unless this Python has vbench, and `names` is the file by which vbench knows its prompts."""
    if names is None or names.suffix != ".json":
        raise ConfigError("--evaluate needs --names VBench_full_info.json, by which vbench knows its prompts")
    try:
        found = subprocess.run([str(python), "-c", "import importlib.util as u; print(u.find_spec('vbench') is None)"],
                               check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"--evaluate {python} is no Python that can be run ({error})") from error
    if found != "False":
        raise ConfigError(f"--evaluate {python} has no vbench; make an environment for it, since it needs older "
                          "packages than this project: python -m venv ENV, ENV/bin/pip install vbench")


def evaluate(python: Path, names: Path, folder: Path) -> None:
    """Write vbench's results of the dimensions that need no download below `folder`/evaluation, and log the scores.

    Raises DataError with the last line of what vbench says if it fails, and if it found no video.
    """
    out = folder / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    for dimension in WITHOUT_DOWNLOAD:
        words = [str(python.absolute()), "-c", PROGRAM, str(names.resolve()), str((folder / "videos").resolve()),
                 str(out.resolve()), dimension]
        done = subprocess.run(words, capture_output=True, text=True, cwd=out)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"vbench failed at {dimension}: {last}")
        score, videos = read_result(out / f"{dimension}_eval_results.json", dimension)
        logger.info("%s: %.4f, of %d videos (%s)", dimension, score, videos, out / f"{dimension}_eval_results.json")


def read_result(path: Path, dimension: str) -> tuple[float, int]:
    """Return the score that vbench wrote for a dimension, and how many videos it is of.

    Raises DataError for a file that is not like vbench's, and for a score of no videos.
    """
    try:
        score, videos = json.loads(path.read_text(encoding="utf-8"))[dimension]
        score, count = float(score), len(videos)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is not a result of vbench's for {dimension} ({error})") from error
    if not count:
        raise DataError(f"vbench found none of the videos of {dimension}: no name is one of its prompts")
    return score, count
