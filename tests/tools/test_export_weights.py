"""Tests of exported weights: same names, half the bytes, and no loss that the dtype can avoid."""
import pytest
import torch
from safetensors.torch import save_file

from common.errors import CheckpointError, DataError
from tools.export_weights import export_weights
from weights.checkpoint import read_checkpoint, read_state_dict, save_checkpoint


def checkpoint_of(tmp_path, **tensors):
    save_checkpoint(tmp_path / "run", 30, {"module": tensors, "step": 30})
    return tmp_path / "run"


def test_only_the_transformer_is_kept_under_its_names(tmp_path):
    weight = torch.randn(4, 3)
    run = checkpoint_of(tmp_path, **{"model.diffusion_model.time_embed.0.w": weight, "first_stage_model.w": weight})
    file = export_weights(run, tmp_path / "out", torch.float16)
    assert file.parent.name == "30" and (tmp_path / "out" / "latest").read_text() == "30"
    state = read_state_dict(tmp_path / "out")
    assert list(state) == ["model.diffusion_model.time_embed.0.w"]
    assert torch.equal(state["model.diffusion_model.time_embed.0.w"], weight.half())


def test_weights_beyond_the_dtype_are_refused(tmp_path):
    run = checkpoint_of(tmp_path, **{"model.diffusion_model.time_embed.0.w": torch.tensor([1e6])})
    with pytest.raises(CheckpointError, match="does not fit"):
        export_weights(run, tmp_path / "out", torch.float16)


def test_a_checkpoint_without_a_transformer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no transformer"):
        export_weights(checkpoint_of(tmp_path, w=torch.ones(1)), tmp_path / "out", torch.float16)


def test_any_spelling_is_exported_and_a_lora_keeps_its_alpha(tmp_path):
    matrix = "transformer.layers.0.attention.dense.matrix_A.0"
    content = {"module": {f"module.{matrix}": torch.ones(2, 3)}, "lora": {"lora_alpha": 4.0}}
    save_checkpoint(tmp_path / "run", 5, content)
    export_weights(tmp_path / "run", tmp_path / "out", torch.float16)
    exported = read_checkpoint(tmp_path / "out")
    assert exported["lora"] == {"lora_alpha": 4.0} and list(exported["module"]) == [f"model.diffusion_model.{matrix}"]


def test_a_lora_whose_strength_is_kept_elsewhere_is_refused(tmp_path):
    layer = "transformer.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lora_A.weight": torch.ones(2, 3), f"{layer}.lora_B.weight": torch.ones(3, 2)},
              tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is a LoRA of another program.*tools/convert_lora.py"):
        export_weights(tmp_path / "a.safetensors", tmp_path / "out", torch.float16)


def test_nothing_is_written_over(tmp_path):
    run = checkpoint_of(tmp_path, **{"model.diffusion_model.time_embed.0.w": torch.ones(1)})
    for target in (run, tmp_path):
        with pytest.raises(DataError, match="is not empty; nothing is written over it"):
            export_weights(run, target, torch.float16)
