"""Tests of checkpoints in the release's layout: round trips, refusals, and no broken `latest` after a save."""
import os
import pickle
import random
from argparse import Namespace
from pathlib import Path

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
    (tmp_path / "3d-vae.pt").write_bytes(b"of an autoencoder's run")
    with pytest.raises(CheckpointError, match="is missing; the folder holds .*3d-vae.pt"):
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


def saved_iterations(folder, *names):
    for name in names:
        save_checkpoint(folder, name, {"module": {"w": torch.full((1,), float(name))}})


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf20\r\n", "20".encode("utf-16"), b"  20 \n\n", b"20"])
def test_latest_is_read_as_any_editor_writes_it(content, tmp_path):
    saved_iterations(tmp_path, 20, 30)
    (tmp_path / "latest").write_bytes(content)
    assert read_state_dict(tmp_path)["w"] == 20


@pytest.mark.parametrize("content", [b"../other", b"/tmp", b"..", b".", b"", b" \n"])
def test_latest_names_a_folder_beside_it(content, tmp_path):
    saved_iterations(tmp_path / "run", 20)
    saved_iterations(tmp_path / "other", 1)
    (tmp_path / "run" / "latest").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"latest names iteration .*saved here: 20; write one of these"):
        read_state_dict(tmp_path / "run")


def test_an_unreadable_latest_is_named(tmp_path):
    saved_iterations(tmp_path, 20)
    (tmp_path / "latest").write_bytes(b"\xff\x00\x9f")
    with pytest.raises(CheckpointError, match="latest, line 1: not UTF-8"):
        find_checkpoint(tmp_path)


def test_without_latest_the_saved_iterations_are_told(tmp_path):
    saved_iterations(tmp_path, 1000, 200)
    (tmp_path / "latest").unlink()
    with pytest.raises(CheckpointError, match=r"no file `latest`.* saved here: 200, 1000; write one of these"):
        find_checkpoint(tmp_path)
    assert read_state_dict(tmp_path / "200")["w"] == 200


def test_a_folder_with_one_file_of_weights_is_that_file(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    assert find_checkpoint(tmp_path) == tmp_path / "model.safetensors"
    save_file({"w": torch.ones(1)}, tmp_path / "second.safetensors")
    with pytest.raises(CheckpointError, match="several files of weights"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("wrappers", [(), ("module",), ("state_dict",), ("model",), ("ema",), ("state_dict", "module"),
                                      ("model", "ema_state_dict")])
def test_tensors_are_found_under_any_wrapper(wrappers, tmp_path):
    content = {"w": torch.ones(2)}
    for wrapper in reversed(wrappers):
        content = {wrapper: content, "step": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "a.pt")
    assert torch.equal(read_state_dict(tmp_path / "a.pt")["w"], torch.ones(2))


def test_of_weights_and_their_average_the_weights_are_taken(tmp_path):
    torch.save({"ema": {"w": torch.zeros(2)}, "model": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    assert torch.equal(read_state_dict(tmp_path / "a.pt")["w"], torch.ones(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_no_numbers_are_refused(value, dtype, layer):
    state = {name: tensor.to(dtype) for name, tensor in layer.state_dict().items()}
    state["weight"][1, 1] = value
    with pytest.raises(CheckpointError, match="values in weight are infinite or no numbers"):
        load_module(layer, state, "a.pt")


def test_values_that_the_dtype_does_not_hold_are_refused(layer):
    state = layer.state_dict() | {"bias": torch.tensor([1e6, 1.0])}
    with pytest.raises(CheckpointError, match="values in bias .* as float16"):
        load_module(layer.half(), state, "a.pt")


def test_integers_and_complex_numbers_are_not_converted(layer):
    counted = torch.nn.BatchNorm1d(2)
    load_module(counted, counted.state_dict(), "a.pt")  # a buffer that is an integer may be one
    for dtype in (torch.int32, torch.complex64, torch.bool):
        state = layer.state_dict() | {"bias": torch.ones(2).to(dtype)}
        with pytest.raises(CheckpointError, match=f"types differ: bias is {str(dtype)[6:]}, wanted float32"):
            load_module(layer, state, "a.pt")


@pytest.mark.parametrize("path, says", [
    ("nowhere.pt", "does not exist"), ("link.pt", "is a link to blob, which does not exist"),
    ("https:/host/model.pt", "is an address; nothing is fetched"), ("pipe", "is neither a file nor a folder"),
    ("unreadable", r"cannot be read \(Input/output error\)"),
    ("divided", "is divided among 2 processes")])
def test_what_cannot_be_read_is_told_with_its_path(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("blob", "link.pt")
    os.mkfifo("pipe")
    os.symlink("/proc/self/mem", "unreadable")
    save_checkpoint("divided", 1, {"module": {}})
    Path("divided/1/mp_rank_01_model_states.pt").touch()
    with pytest.raises(CheckpointError, match=f"checkpoint {path}.* {says}"):
        read_state_dict(path)
