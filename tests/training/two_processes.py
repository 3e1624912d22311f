"""Several training runs in one process group: `python two_processes.py RUNS.json`.

A run is [steps, command line]. A run with a number of steps stops after them and saves; with null it runs to its end.
"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sat")]

import torch

import train_video
from arguments import get_args
from common.ranks import world_size
from parallel import launch
from training import run_files, run_state


def train_all(runs: list[tuple[int | None, list[str]]]) -> None:
    """Run the training runs one after another."""
    with launch.launched(torch.device("cpu"), deepspeed=True):
        for steps, command in runs:
            args = get_args(command)
            train_video.check_settings(args)
            settings = run_state.transformer_settings(args, world_size())
            state = run_files.begin(args.training.folder, args.training.resume, settings)
            trainer = train_video.build_trainer(args, state)
            if steps is None:
                trainer.run()
            else:
                for _ in range(steps):
                    trainer.train_step()
                trainer.save()


if __name__ == "__main__":
    train_all(json.loads(Path(sys.argv[1]).read_text()))
