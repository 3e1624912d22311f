"""Tests that two processes which divide tokens or branches of guidance compute what one does."""
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from network.published_teacache import PublishedTeaCache
from network.step_cache import RowState
from network.token_division import DividedLayers
from sgm.conditioning import Conditioning
from sgm.guiders import PerturbedAttentionGuidance
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VE
from sgm.sampling.guided import Guided, PassPlan, StepState
from tests.dit_models import ROTARY, SINCOS, build, inputs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LEARNED = {**ROTARY, "params": {**ROTARY["params"], "learnable_pos_embed": True}}
CASES = {  # model, latents, text tokens and network inputs; tokens of both kinds that divide evenly and unevenly
    "even": (dict(), (3, 4, 6, 8), 6, {}), "uneven": (dict(), (1, 4, 6, 6), 5, {}),
    "sincos": (dict(positions=SINCOS, qk_ln=False), (1, 4, 6, 6), 6, {}),
    "learned": (dict(positions=LEARNED, use_SwiGLU=True), (3, 4, 6, 2), 6, {}),
    "perturbed": (dict(), (1, 4, 6, 6), 6, {"identity_attention": (1,)})}
PAG = PerturbedAttentionGuidance(scale=2.0, layers=[0], cfg_scale=3.0)  # three branches, two of them on rank 0
LEVEL = NoiseLevel(1.0, 0.5, None, 3, 10, VE)


def run_case(name, group=None):
    model, latent, text, extra = CASES[name]
    network = build(**model)
    if group is not None:
        network.layer_runner = DividedLayers(*group)
    x, times, context = inputs(latent=latent)
    with torch.no_grad():
        return network(x, times, context[:, :text], **extra)


def run_cached(group=None):
    """Six steps with a step cache by the time embedding, which skips some."""
    network, cache = build(), PublishedTeaCache(threshold=1.5, polynomial=[1, 0])
    if group is not None:
        network.layer_runner = DividedLayers(*group)
    x, _, text = inputs()
    state, found = cache.begin(2), []
    for index in range(6):
        runner = state.runner([0], index, 6)
        with torch.no_grad():
            found.append(network(x * (1 + index), torch.tensor([900.0 - 30 * index]), text, layer_runner=runner))
        state = state.after(runner)
    skipped, asked = state.counts[0]
    assert 0 < skipped < 0.6 * asked
    return torch.stack(found)


def run_guidance(sharing=None):
    network = build()
    x, _, text = inputs()
    cond, uc = {"text": text}, {"text": torch.zeros_like(text)}
    guided = Guided(lambda x, level, c, **own: network(x, level, c["text"], **own), PAG, Conditioning(cond, uc), None,
                    {}, PassPlan(sharing=sharing))
    with torch.no_grad():
        first, state = guided(x, LEVEL, StepState())
        return torch.stack([first, guided(x * 2, LEVEL, state)[0]])


def run_shares(sharing=None, branches=(0, 1)):
    """Two rows, of which the first skipped a quarter in one branch and three quarters in the other."""
    row = {0: RowState(asked=4, skipped=1), 1: RowState(asked=4, skipped=3)}
    begun = PublishedTeaCache(threshold=1.5, polynomial=[1, 0]).begin(2)
    rows = [{branch: one for branch, one in whole.items() if branch in branches}
            for whole in (row, {0: RowState(asked=4), 1: RowState(asked=2, skipped=2)})]
    guided = Guided(None, PAG, None, None, {}, PassPlan(sharing=sharing))
    return torch.tensor(guided.skipped(StepState(cached=replace(begun, rows=rows)), torch.device("cpu")))


WORKER = """
import os, sys, torch
sys.path[:0] = sys.argv[1:3]
rank, folder = int(sys.argv[3]), sys.argv[4]
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
from parallel import groups, launch
import torch.distributed as dist
begin = dist.init_process_group
dist.init_process_group = lambda backend: begin(backend, init_method=f"file://{folder}/store", rank=rank, world_size=2)
from parallel.guidance import SharedBranches
from tests.network.test_token_division import CASES, run_cached, run_case, run_guidance, run_shares
with launch.launched(torch.device("cpu"), groups.GroupSizes(sequence=2)):
    found = {name: run_case(name, groups.sequence_group()) for name in CASES}
    found["cached"] = run_cached(groups.sequence_group())
    sharing = SharedBranches(*groups.sequence_group())
    found |= {"guidance": run_guidance(sharing), "shares": run_shares(sharing, (rank,))}
torch.save(found, f"{folder}/{rank}.pt")
"""


def test_two_processes_compute_what_one_does(tmp_path):
    command = [sys.executable, "-c", WORKER, str(ROOT / "sat"), str(ROOT)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=os.environ | threads) for rank in range(2)]
    try:
        assert [worker.wait(timeout=500) for worker in workers] == [0, 0]
    finally:  # if one fails, the other waits for it
        for worker in workers:
            worker.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in CASES:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], run_case(name), atol=1e-5, rtol=1e-5, msg=name)
    for name in ("guidance", "shares"):
        assert torch.equal(first[name], second[name])
    assert first["shares"].tolist() == run_shares().tolist() == pytest.approx([1 / 2, 1 / 3])
    torch.testing.assert_close(first["cached"], run_cached(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(first["guidance"], run_guidance(), atol=1e-4, rtol=1e-5)
