"""Tests of checkpoints in the release's layout: round trips, refusals, and no broken `latest` after a save."""
import os
import pickle
import random
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.errors import CheckpointError
from weights import checkpoint
from weights.checkpoint import find_checkpoint, load_module, read_checkpoint, read_state_dict, save_checkpoint


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def test_round_trip_with_the_states_that_training_keeps(tmp_path, layer):
    states = {"module": layer.state_dict(), "iteration": 5, "rng": [random.getstate(), np.random.get_state()],
              "torch_rng": torch.get_rng_state(), "args": Namespace(lr=1e-3)}
    written = save_checkpoint(tmp_path, 5, states)
    assert written == tmp_path / "5" / "mp_rank_00_model_states.pt" and (tmp_path / "latest").read_text() == "5"
    read = read_checkpoint(tmp_path)
    assert read["iteration"] == 5 and read["args"].lr == 1e-3
    assert all(torch.equal(v, read["module"][k]) for k, v in layer.state_dict().items())


def test_half_precision_on_disk_loads_into_any_dtype(tmp_path, layer):
    save_file({k: v.half() for k, v in layer.state_dict().items()}, tmp_path / "a.safetensors")
    loaded = torch.nn.Linear(3, 2).double()
    load_module(loaded, read_state_dict(tmp_path / "a.safetensors"), "a")
    assert loaded.weight.dtype == torch.float64 and torch.equal(loaded.weight.half(), layer.weight.half())


@pytest.mark.parametrize("content", [{"module": RunsCode()}, {"state_dict": {"a": RunsCode()}}])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match=f"{name} is refused"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.filterwarnings("ignore")
def test_damage_is_named(tmp_path, layer):
    whole = save_checkpoint(tmp_path, 1, {"module": layer.state_dict()}).read_bytes()
    for name, content in {"cut.pt": whole[:-100], "start.pt": whole[:60], "empty.pt": b"", "text.pt": b"hello, world",
                          "cut.safetensors": b"\x08\0\0"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name) as error:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path, layer):
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no file `latest`"):
        find_checkpoint(tmp_path)
    (tmp_path / "latest").write_text("12")
    with pytest.raises(CheckpointError, match="names iteration '12'"):
        find_checkpoint(tmp_path)


def test_a_save_that_dies_leaves_the_previous_checkpoint(tmp_path, layer, monkeypatch):
    save_checkpoint(tmp_path, 1, {"module": layer.state_dict()})

    def die(content, stream):
        stream.write(b"half a file")
        raise OSError("no space left on device")
    monkeypatch.setattr(checkpoint.torch, "save", die)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, 2, {"module": layer.state_dict()})
    assert (tmp_path / "latest").read_text() == "1" and read_state_dict(tmp_path)


def test_misfits_are_listed(layer):
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as error:
        load_module(layer, state, "a.pt")
    for part in ("weight is 2x4, wanted 2x3", "missing: bias", "not in the model: extra"):
        assert part in str(error.value)
