"""Tests of exported weights: same names, half the bytes, and no loss that the dtype can avoid."""
import pytest
import torch

from common.errors import CheckpointError
from tools.export_weights import export_weights
from weights.checkpoint import read_state_dict, save_checkpoint


def checkpoint_of(tmp_path, **tensors):
    save_checkpoint(tmp_path / "run", 30, {"module": tensors, "step": 30})
    return tmp_path / "run"


def test_only_the_transformer_is_kept_under_its_names(tmp_path):
    weight = torch.randn(4, 3)
    run = checkpoint_of(tmp_path, **{"model.diffusion_model.w": weight, "first_stage_model.w": weight})
    file = export_weights(run, tmp_path / "out", torch.float16)
    assert file.parent.name == "30" and (tmp_path / "out" / "latest").read_text() == "30"
    state = read_state_dict(tmp_path / "out")
    assert list(state) == ["model.diffusion_model.w"]
    assert torch.equal(state["model.diffusion_model.w"], weight.half())


def test_weights_beyond_the_dtype_are_refused(tmp_path):
    run = checkpoint_of(tmp_path, **{"model.diffusion_model.w": torch.tensor([1e6])})
    with pytest.raises(CheckpointError, match="does not fit"):
        export_weights(run, tmp_path / "out", torch.float16)


def test_a_checkpoint_without_a_transformer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no tensors under"):
        export_weights(checkpoint_of(tmp_path, w=torch.ones(1)), tmp_path / "out", torch.float16)
