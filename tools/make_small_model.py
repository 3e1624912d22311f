"""Make the small models from nothing, by the recipes of configs/small_model, and judge them.

    bash tools/make_small_model.sh                       # everything, in runs/small_model (hours)
    bash tools/make_small_model.sh --quick --out runs/try  # every step with a few clips (minutes), to see that it works
    bash tools/make_small_model.sh --plan                # what there is to do, and what is done already
    bash tools/make_small_model.sh --also numbers control  # further models as well

Renders clips, trains the autoencoder, makes the text encoder, trains text-to-video and image-to-video, exports their
weights, judges videos and writes FOLDER/table.md. Results that are there are kept, and a training that was stopped goes
on, so the same command may be given again at any time. FOLDER/tiny is laid out as checkpoints/tiny, which is not
touched. Only the transformers are trained on several processes; the autoencoder is trained by one.
"""
import argparse
import filecmp
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from omegaconf import OmegaConf

from common.console import run
from common.cpu_operations import CPU_HAS_BFLOAT16
from common.errors import ConfigError
from common.files import REPOSITORY, check_writable, expanded_path, sole_use, whole_file, whole_folder
from common.text import read_text
from configuration.yaml_files import plain, read_mapping
from tools.small_model_recipe import (
    ALSO,
    JUDGED,
    NUMBERS,
    OUT,
    Choices,
    Job,
    jobs_of,
    own_configs,
    parts_config,
    record_of,
)
from training.saved_steps import AUTOENCODER, latest_step

RECORD = "made_with.json"

logger = logging.getLogger("make_small_model")


def is_done(job: Job) -> bool:
    """Return True if the result of a job is there as a whole."""
    return latest_step(job.result) == job.steps if job.steps else job.result.exists()


def has_begun(job: Job) -> bool:
    """Return True if there is anything of a job's result that would be kept."""
    return latest_step(job.result) is not None if job.steps else job.result.exists()


def check_same(jobs: Sequence[Job], folder: Path) -> dict[str, str]:
    """Return the records of jobs begun in the folder. Raises ConfigError if one was made by another recipe."""
    path = folder / RECORD
    begun: dict[str, str] = json.loads(read_text(path)) if path.exists() else {}
    for job in jobs:
        if has_begun(job) and begun.get(job.name) != record_of(job, folder):
            raise ConfigError(f"{folder} has {job.name} of another recipe or with other options (--quick, "
                              "--precision); give the same ones again, or choose another --out")
    return begun


def make(choices: Choices) -> None:
    """Do all jobs that are not done. Raises SystemExit with the exit code of a command that fails."""
    folder = choices.folder
    jobs = jobs_of(choices)
    begun = check_same(jobs, folder)
    write_configs(choices)
    for number, job in enumerate(jobs, 1):
        if is_done(job):
            logger.info("[%d/%d] %s: done", number, len(jobs), job.name)
        else:
            logger.info("[%d/%d] %s%s", number, len(jobs), job.name, f", {job.steps} steps" if job.steps else "")
            begun[job.name] = record_of(job, folder)
            with whole_file(folder / RECORD) as path:
                path.write_text(json.dumps(begun, indent=1), encoding="utf-8")
            do(job, choices)
        if job.autoencoder:
            use_autoencoder(job.result / AUTOENCODER, folder / "tiny" / "vae" / job.autoencoder)
    write_table(choices)
    logger.info("done: the table is %s/table.md; sample with: bash inference.sh %s/t2v.yaml; put the weights in place "
                "of the committed ones with: cp -R %s/tiny/. checkpoints/tiny/", folder, folder, folder)


def do(job: Job, choices: Choices) -> None:
    """Run the command of a job; a result that is a folder of files appears as a whole."""
    if job.config:
        write_config(choices.folder / "recipe" / f"{job.name}.yaml", job.config)
    if OUT not in job.command:
        call([*job.command, *job.extra], choices, job)
        return
    with whole_folder(job.result) as unfinished:
        call([str(unfinished) if word == OUT else word for word in job.command], choices, job)


def call(words: Sequence[str], choices: Choices, job: Job) -> None:
    """Run Python with these words in the repository. A signal to end is passed on, so that training saves its step."""
    environment = dict(os.environ)
    if "torch.distributed.run" in words:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // choices.processes)))
    with subprocess.Popen([sys.executable, *words], cwd=REPOSITORY, env=environment) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:  # which the terminal sent to the child too
            child.wait()
            raise
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if code:
        logger.error("%s ended with exit code %d; give the same command again to continue", job.name, code)
        raise SystemExit(code if code > 0 else 128 - code)


def use_autoencoder(file: Path, target: Path) -> None:
    """Copy a trained autoencoder to its place, unless it is there. One of an earlier last stage is replaced."""
    if not (target.exists() and filecmp.cmp(file, target, shallow=False)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as path:
            shutil.copyfile(file, path)


def write_configs(choices: Choices) -> None:
    """Write the configurations that sample with what is made in FOLDER/tiny."""
    folder = choices.folder
    for part in choices.transformers:
        base: Any = OmegaConf.merge(*(read_mapping(REPOSITORY / name) for name in own_configs(part)))
        made = {"args": {"load": str(folder / "tiny" / part)}, "model": parts_config(base.model, folder)}
        write_config(folder / f"{part}.yaml", plain(OmegaConf.merge(base, made)))


def write_config(path: Path, config: Mapping) -> None:
    """Write a configuration as YAML, in a folder that is created if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")


def write_table(choices: Choices) -> None:
    """Write FOLDER/table.md from the tables of the judge."""
    folder = choices.folder
    tables = [f"## {part}\n\n{read_text(folder / 'judged' / f'{part}.md')}"
              for part in (*JUDGED, *([NUMBERS] if NUMBERS in choices.also else []))]
    with whole_file(folder / "table.md") as path:
        path.write_text("\n".join(tables), encoding="utf-8")
    logger.info("\n%s", "\n".join(tables))


def show_plan(choices: Choices) -> None:
    """Log every job with its command, and whether it is done."""
    jobs = jobs_of(choices)
    check_same(jobs, choices.folder)
    for job in jobs:
        state = f"step {latest_step(job.result) or 0} of {job.steps}" if job.steps else "to do"
        state = "done" if is_done(job) else state
        words = " ".join([*job.command, *job.extra]).replace(OUT, str(job.result))
        logger.info("%s (%s): python %s", job.name, state, words)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/small_model", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few clips and steps of everything")
    parser.add_argument("--also", nargs="+", choices=ALSO, default=[], metavar="PART",
                        help=f"make these as well: {', '.join(ALSO)}")
    parser.add_argument("--plan", action="store_true", help="tell what there is to do, and do nothing")
    parser.add_argument("--processes", type=int, choices=range(1, 65), default=1, metavar="N",
                        help="processes of the transformers' training (default: 1)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32",
                        help="of all training; weights stay float32")
    options = parser.parse_args(argv)
    choices = Choices(expanded_path(options.out, "--out").absolute(), options.quick, options.processes,
                      options.precision, tuple(options.also))
    if options.plan:
        show_plan(choices)
        return
    if choices.precision == "bfloat16" and not (CPU_HAS_BFLOAT16 or torch.accelerator.is_available()):
        raise ConfigError("--precision bfloat16: this CPU would only emulate it, several times slower than float32; "
                          "leave it out")
    jobs_of(choices)  # a mistake in a recipe is told before anything is written
    with sole_use(check_writable(choices.folder, "--out")):
        make(choices)


if __name__ == "__main__":
    sys.exit(run(main))
