"""Tests of parallel state: one process needs none; two that share a transformer compute what one does."""
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from common import ranks, swiss_army
from common.errors import ConfigError, UserError
from network import linears
from parallel import groups, launch
from tests.dit_models import build, inputs

ROOT = Path(__file__).resolve().parents[2]


def test_one_process_needs_no_process_group():
    groups.initialize()
    assert not dist.is_initialized()
    assert groups.model_parallel_size() == 1
    assert groups.data_rank_and_size() == (0, 1) and ranks.is_main_process()


def test_more_parts_than_processes_are_refused():
    with pytest.raises(ConfigError, match="model_parallel_size 2 does not divide the 1 process"):
        groups.initialize(2)


def test_which_processes_divide_tokens_and_passes(monkeypatch):
    found = []
    for rank in range(8):
        for name, value in {"get_world_size": 8, "get_rank": rank, "is_initialized": True}.items():
            monkeypatch.setattr(dist, name, lambda value=value: value)
        monkeypatch.setattr(dist, "new_group", tuple)
        monkeypatch.setattr(groups, "_groups", {})
        groups.initialize_groups(groups.GroupSizes(context=2, sequence=2, guidance=2))
        found.append((groups.sequence_group()[1], groups.guidance_group()[1], groups.data_rank_and_size(),
                      groups.leads_copy()))
        assert list(groups.own_share(range(5))) == ([0, 2, 4] if rank < 4 else [1, 3])
    assert found == [([0, 1], [0, 2], (0, 2), True), ([0, 1], [1, 3], (0, 2), False),
                     ([2, 3], [0, 2], (0, 2), False), ([2, 3], [1, 3], (0, 2), False),
                     ([4, 5], [4, 6], (1, 2), True), ([4, 5], [5, 7], (1, 2), False),
                     ([6, 7], [4, 6], (1, 2), False), ([6, 7], [5, 7], (1, 2), False)]
    with pytest.raises(ConfigError, match="sequence_parallel_size 3 does not divide the 8 process"):
        groups.initialize_groups(groups.GroupSizes(sequence=3))


@pytest.mark.parametrize("names, launcher", [
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "srun"), ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "srun"),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "mpirun"), ({"PMI_SIZE": "3"}, "mpiexec"),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, None), ({"PMI_SIZE": "three"}, None),
    ({"PMI_SIZE": "3", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, None)])
def test_copies_that_know_nothing_of_each_other_are_refused(names, launcher, monkeypatch):
    for name in ("RANK", *(name for pair in launch.LAUNCHERS.values() for name in pair)):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    if launcher is None:  # a batch script of one process, or torchrun
        launch.check_launcher()
    else:
        with pytest.raises(ConfigError, match=f"{launcher} started several copies .* torchrun --nproc_per_node N"):
            launch.check_launcher()


def test_processes_that_are_announced_and_not_started_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match="WORLD_SIZE is '8', .* torchrun did not start"), launch.launched(
            torch.device("cpu")):
        pass


def test_plain_linears_compute_the_same():
    groups.initialize()
    layers = torch.nn.Sequential(groups.mpu.ColumnParallelLinear(4, 6, gather_output=False),
                                 groups.mpu.RowParallelLinear(6, 4, input_is_parallel=True))
    torch.nn.init.normal_(layers[1].bias)
    x = torch.randn(3, 4)
    before = layers(x)
    linears.use_plain_linears(layers)
    torch.testing.assert_close(layers(x), before)


def test_missing_swissarmytransformer_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sat.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sat", types.ModuleType("sat"))  # as if a source folder had that name
    spec = importlib.util.spec_from_file_location("fresh_import", swiss_army.__file__)
    with pytest.raises(UserError, match="SwissArmyTransformer is not installed.*requirements.txt"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
def test_the_library_starts_up_when_it_is_asked_for():
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from common import swiss_army\n"
            "assert not {'deepspeed', 'datasets', 'transformers', 'urllib3'} & set(sys.modules)\n"
            "import requests; from requests.exceptions import HTTPError\n"
            "assert requests.__version__[0].isdigit() and issubclass(HTTPError, requests.RequestException)\n"
            "from sat import AutoModel, mpu; from sat.model.official import GLMModel\n"
            "assert issubclass(GLMModel, swiss_army.BaseModel) and mpu is swiss_army.mpu\n"
            "assert 'datasets' in sys.modules\n")
    subprocess.run([sys.executable, "-c", code, str(ROOT / "sat")], check=True)


WORKER = """
import sys, torch, torch.distributed as dist
sys.path[:0] = sys.argv[1:3]
rank, store, out = int(sys.argv[3]), *sys.argv[4:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
from common.ranks import is_main_process
from parallel import groups
from weights.network import build_network
from tests.dit_models import config, inputs
groups.initialize(2)
assert groups.data_rank_and_size() == (0, 1) and is_main_process() == (rank == 0)
model = build_network(config(use_SwiGLU=True), out + ".weights", torch.float32, "cpu").eval()
sizes = [sum(p.numel() for name, p in model.named_parameters() if layer in name) for layer in ("attention.", "mlp.")]
assert sizes == [2 * (4 * 64 * 32 + 3 * 32 + 64), 2 * (2 * 64 * 128 + 128 + 64)], sizes
with torch.no_grad():
    result = model(*inputs())
if rank == 0:
    torch.save(result, out)
dist.barrier()  # both end together
groups.destroy()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_one_transformer(tmp_path):
    model, out = build(use_SwiGLU=True), tmp_path / "out.pt"
    torch.save(model.state_dict(), f"{out}.weights")
    command = [sys.executable, "-c", WORKER, str(ROOT / "sat"), str(ROOT)]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path / "store"), str(out)],
                                env={**os.environ, "LOCAL_WORLD_SIZE": "2"}) for rank in range(2)]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:  # if one fails, the other waits for it
        for worker in workers:
            worker.kill()
    with torch.no_grad():
        torch.testing.assert_close(torch.load(out), model(*inputs()), atol=1e-5, rtol=0)
