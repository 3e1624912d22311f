"""One video of full size from a folder on disk, by the command line as users call it, beside what `--plan` says of it.

    python -m benchmarks.from_disk FOLDER                  # CogVideoX-2B, 9 frames of 480 x 720, bfloat16 on a CPU
    python -m benchmarks.from_disk FOLDER args.offload=model --steps 4 --save     # T5 is freed after the prompts
    python -m benchmarks.from_disk FOLDER --preset tiny_t2v --dtype fp32          # the same in half a minute

FOLDER is a diffusers pipeline folder. If it does not exist, it is written first, with random weights of full size:
transformer, autoencoder and T5 v1.1 XXL, 13 GB; for a preset with other text embeddings a small T5. The table has the
peak memory of the process, without what Python and its libraries take, and the seconds of sampling, decoding and
saving, each beside the plan's. --save keeps the table under docs/benchmarks/. Linux only.
"""
import argparse
import ast
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch

from benchmarks.command_line import count
from benchmarks.command_runs import PROMPT, peak_of
from benchmarks.markdown import table
from benchmarks.random_folder import write_pipeline
from benchmarks.speed_measure import DTYPES, hardware, show
from common.console import run

UNITS = {"GB": 1e9, "MB": 1e6}
SECONDS = {"s": 1, "min": 60, "h": 3600}
IMPORTS = "import sample_video, torch, transformers, deepspeed, safetensors.torch, av"


def planned(told: str) -> tuple[float, float]:
    """Return the bytes and seconds that a plan names."""
    size, unit = re.search(r"memory: at most ([\d.]+) (\w+) on", told).groups()  # type: ignore[union-attr]
    seconds, clock = re.search(r"time: about ([\d.]+) (s|min|h) for", told).groups()  # type: ignore[union-attr]
    return float(size) * UNITS[unit], float(seconds) * SECONDS[clock]


def taken(told: str) -> float:
    """Return the seconds of sampling, decoding and saving that a run reports."""
    seconds = ast.literal_eval(re.search(r"seconds: (\{.*\})", told).group(1))  # type: ignore[union-attr]
    return seconds["diffusion sampling"] + seconds["decode and save"]


def command_of(options: argparse.Namespace, prompts: Path, output: Path) -> list[str]:
    """Return the command line of the run."""
    dtype = [f"args.{options.dtype}=true"] if options.dtype != "fp32" else []
    return ["sample_video.py", "--base", f"configs/{options.preset}.yaml", "configs/inference.yaml",
            f"args.load={options.folder.resolve()}", "args.fp16=false", *dtype, "--num-frames", str(options.num_frames),
            "--num-inference-steps", str(options.steps), "--input-file", str(prompts), "--output-dir", str(output),
            "--device", "cpu", *options.overrides]


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value for the configuration")
    parser.add_argument("--preset", default="cogvideox_2b", help="a file of configs/ (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--num-frames", type=count, default=9)
    parser.add_argument("--steps", type=count, default=2)
    parser.add_argument("--save", action="store_true", help="keep the table as a dated note")
    options = parser.parse_args(argv)
    options.words = sys.argv[1:] if argv is None else list(argv)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    if not options.folder.exists():
        write_pipeline(options.folder, options.preset, DTYPES[options.dtype])
    with tempfile.TemporaryDirectory() as work:
        prompts = Path(work) / "prompts.txt"
        prompts.write_text(PROMPT + "\n", encoding="utf-8")
        command = command_of(options, prompts, Path(work) / "out")
        memory, seconds = planned(peak_of([*command, "--plan"])[0])
        _, before = peak_of(["-c", IMPORTS])
        told, peak = peak_of(command)
    rows = [["memory", f"{memory / 1e9:.2f} GB", f"{(peak - before) / 1e9:.2f} GB", f"{memory / (peak - before):.2f}"],
            ["sampling, decoding and saving", f"{seconds:.3g} s", f"{taken(told):.3g} s",
             f"{seconds / taken(told):.2f}"]]
    text = (f"# A video of full size from disk, {date.today()}\n\n"
            f"`python -m benchmarks.from_disk FOLDER {' '.join(options.words[1:])}`\n\n{options.preset}, "
            f"{options.num_frames} frames, {options.steps} steps, {options.dtype}, random weights; "
            f"{hardware(torch.device('cpu'))}; Python {platform.python_version()}, torch {torch.__version__}. "
            f"Python and its libraries take {before / 1e9:.2f} GB more.\n\n"
            f"{table(('', 'planned', 'taken', 'planned / taken'), rows)}\n")
    show(text, f"from_disk_{options.preset}", options.save)


if __name__ == "__main__":
    sys.exit(run(main))
