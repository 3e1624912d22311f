"""Tests that processes which decode a video together give the frames of a single process."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.vae_modules.small_vae import build, latent

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (1, 3, 5, 7, 11)  # latent frames, in 1, 1, 2, 3 and 5 chunks

WORKER = """
import os, sys, torch
sys.path[:0] = sys.argv[1:3]
rank, size, folder = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
from parallel import groups, launch
import torch.distributed as dist
begin = dist.init_process_group
store = f"file://{folder}/store"
dist.init_process_group = lambda backend: begin(backend, init_method=store, rank=rank, world_size=size)
from tests.vae_modules.small_vae import build, latent
with launch.launched(torch.device("cpu"), groups.GroupSizes(context=size)), torch.no_grad():
    assert groups.data_rank_and_size() == (0, 1) and groups.leads_copy() == (rank == 0)
    vae = build(cp_size=size)
    torch.save({n: vae.decode(latent(n)) for n in map(int, sys.argv[6:])}, f"{folder}/{rank}.pt")
"""


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_has_the_frames_of_one(tmp_path, size):
    command = [sys.executable, "-c", WORKER, str(ROOT / "sat"), str(ROOT)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    workers = [subprocess.Popen([*command, str(rank), str(size), str(tmp_path), *map(str, LENGTHS)],
                                env=os.environ | threads) for rank in range(size)]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0] * size
    finally:  # if one fails, the others wait for it
        for worker in workers:
            worker.kill()
    vae = build()
    for rank in range(size):
        for frames, found in torch.load(tmp_path / f"{rank}.pt").items():
            with torch.no_grad():
                assert torch.equal(found, vae.decode(latent(frames)))
