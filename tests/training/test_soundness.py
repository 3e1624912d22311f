"""Tests that nothing that is not finite takes the place of a good checkpoint."""
from dataclasses import replace

import pytest
import torch

from common.errors import NumericalError
from tests.training.test_run_files import saved_step, state
from training import run_files


@pytest.mark.parametrize("part, broken, said", [
    ("network", {"bias": torch.tensor([1.0, float("nan")])}, "the weight bias is nan after step 2, which is not saved"),
    ("average", {"weight": torch.tensor([float("-inf")])}, "the averaged weight weight is infinite"),
    ("optimizer", {"optimizer": {"state": {0: {"exp_avg": torch.tensor([float("inf")]).bfloat16()}}}},
     "the state of the optimizer optimizer.state.0.exp_avg is infinite")])
def test_a_state_that_is_not_finite_is_not_saved(part, broken, said, tmp_path):
    run_files.save(tmp_path, state(1), keep=1)
    with pytest.raises(NumericalError, match=f"{said}.*; the checkpoint of step 1 is intact: lower"):
        run_files.save(tmp_path, replace(state(2), **{part: broken}), keep=1)
    assert saved_step(tmp_path) == 1 and not list(tmp_path.rglob("2*"))


def test_an_autoencoder_that_float16_cannot_hold_is_not_saved(tmp_path):
    large = {"weight": torch.tensor([1.0, -70000.0])}
    run_files.save(tmp_path / "transformer", replace(state(1), average=large), keep=1)
    with pytest.raises(NumericalError, match="averaged weight weight has the value 7e.04, and float16 ends at 65504"):
        run_files.save(tmp_path / "vae", replace(state(1), average=large), 1, run_files.VAE)
    assert not (tmp_path / "vae").exists()
