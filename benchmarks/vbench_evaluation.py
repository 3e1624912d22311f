"""Evaluation of sampled videos by the package vbench, which is installed in an environment of its own."""
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
    """Write vbench's results of the dimensions that need no download below `folder`/evaluation.

    Raises DataError with the last line of what vbench says if it fails.
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
        logger.info("%s: %s", dimension, out / f"{dimension}_eval_results.json")
