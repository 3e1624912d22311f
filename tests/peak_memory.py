"""Measurement of the peak memory of code, in a separate process.

In that process freed memory returns to the system at once and pages are small, whatever the machine's settings. Each
job runs twice, so that imports and caches exist before the measured run.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNTER = Path("/proc/self/clear_refs")
RESET_PEAK, THP_DISABLE = "5", 41
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


class Worker:
    """A process that runs `JOBS`, one after another."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**MALLOC, "PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'sat'}:{ROOT}", "OMP_NUM_THREADS": "1"})

    def __call__(self, job, *words):
        """Run a job and return the peak of its memory in bytes, beyond what was in use before."""
        self.process.stdin.write(json.dumps([job, *map(str, words)]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def load(config, path):
    """Build a network with its weights."""
    import torch
    from omegaconf import OmegaConf

    from weights.network import build_network
    build_network(OmegaConf.load(config), path, torch.bfloat16, torch.device("cpu"))


def start_training(*words):
    """Build the engine that training starts from."""
    import train_video
    from arguments import get_args
    train_video.build_engine(get_args(words), fresh=True, text={})


def sample(folder, *words):
    """Run sample_video.py."""
    import sample_video
    shutil.rmtree(folder, ignore_errors=True)
    assert sample_video.main([*words, "--output-dir", folder]) == 0


def train(folder, *words):
    """Run train_video.py."""
    import train_video
    shutil.rmtree(folder, ignore_errors=True)
    train_video.train_video([*words, f"args.save={folder}"])


def train_autoencoder(folder, *words):
    """Run train_vae.py."""
    import train_vae
    shutil.rmtree(folder, ignore_errors=True)
    train_vae.main([*words, f"args.save={folder}"])


JOBS = {"train": train, "train_autoencoder": train_autoencoder, "load": load, "sample": sample,
        "start_training": start_training}


def memory(key):
    """Return an entry of /proc/self/status in bytes."""
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))


def peak_of(job, *words):
    """Run a job twice; return the peak memory of the second run in bytes, beyond what was in use before."""
    import ctypes
    import gc
    JOBS[job](*words)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first run freed is not in use, and must be counted when taken again
    before = memory("VmRSS:")
    COUNTER.write_text(RESET_PEAK)
    JOBS[job](*words)
    return memory("VmHWM:") - before


if __name__ == "__main__":
    import ctypes
    ctypes.CDLL(None).prctl(THP_DISABLE, 1, 0, 0, 0)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of jobs must not mix with the answers
    for line in sys.stdin:
        answers.write(f"{peak_of(*json.loads(line))}\n")
        answers.flush()
