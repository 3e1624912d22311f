"""Tests of the parts of training without a process group: order of clips, learning rate, average, growth."""
import pytest
import torch
from torch import nn

from common.errors import CheckpointError, ConfigError
from training.average import WeightAverage
from training.data.batches import ClipOrder
from training.deepspeed_section import check_deepspeed
from training.optimization import start_deepspeed
from training.run_state import PATCH_EMBEDDING, load_partial
from training.schedule import learning_rate
from weights.checkpoint import save_checkpoint

pytestmark = pytest.mark.slow


def test_every_epoch_shows_each_clip_once_in_another_order():
    order = ClipOrder(10, seed=1)
    first, second = order.take(0, 10), order.take(10, 10)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_the_order_does_not_depend_on_where_reading_starts():
    whole = ClipOrder(7, seed=2).take(0, 30)
    assert torch.equal(ClipOrder(7, seed=2).take(11, 12), whole[11:23])


def test_learning_rate_rises_then_follows_a_cosine():
    rates = [learning_rate(step, 100, 1e-3, warmup=10, final_share=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4) and rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(1e-3 * 0.55) and rates[100] == pytest.approx(1e-4)
    assert learning_rate(99, 100, 1e-3, decay="constant") == 1e-3


def test_average_is_float32_and_the_weights_come_back_bit_for_bit():
    layer = nn.Linear(3, 2).bfloat16()
    average = WeightAverage(dict(layer.named_parameters()), decay=0.5)
    before = layer.weight.clone()
    with torch.no_grad():
        layer.weight.add_(1)
    average.update(step=100)
    moved = layer.weight.clone()
    torch.testing.assert_close(average.values["weight"], (before.float() + moved.float()) / 2)
    with average.applied():
        assert torch.equal(layer.weight, average.values["weight"].bfloat16())
    assert torch.equal(layer.weight, moved)


@pytest.mark.parametrize("config, message", [
    ({"optimizer": {"type": "SGD", "params": {"lr": 1}}}, "deepspeed.optimizer.type is 'SGD'; it must be AdamW, Adam"),
    ({"optimizer": {"params": {"lr": 1e-3, "weight_decy": 0.9}}}, "params.weight_decy.* did you mean weight_decay"),
    ({"optimizer": {"params": {}}}, "deepspeed.optimizer.params.lr is missing"),
    ({"optimizer": {"params": {"lr": float("nan")}}}, "params.lr is nan; it must be a finite number, 0 or more"),
    ({"optimizer": {"params": {"lr": 1, "betas": [0.9, 1.0]}}}, r"params.betas is \[0.9, 1.0\]"),
    ({"optimizer": {"param": {"lr": 1}}}, "deepspeed.optimizer.param: .* did you mean params"),
    ({}, "optimizer is missing"),
    ({"gradient_acumulation_steps": 2}, "did you mean gradient_accumulation_steps"),
    ({"train_micro_batch_size_per_gpu": 0}, "train_micro_batch_size_per_gpu is 0; it must be a whole number above 0"),
    ({"zero_optimization": {"stge": 2}}, "zero_optimization.stge: unknown key; did you mean stage"),
    ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4"),
    ({"zero_optimization": {"overlap_comm": "often"}}, "zero_optimization.overlap_comm is 'often'"),
    ({"zero_optimization": 3}, "zero_optimization is 3; it must be a mapping"),
    ({"bf16": {"enable": True}}, "bf16.enable: unknown key; did you mean enabled"),
    ({"fp16": {"loss_scale": "much"}}, "fp16.loss_scale is 'much'")])
def test_a_wrong_section_is_named(config, message):
    if "optimizer" not in config and config:
        config = config | {"optimizer": {"params": {"lr": 1e-3}}}
    with pytest.raises(ConfigError, match=message):
        check_deepspeed({"train_micro_batch_size_per_gpu": 1} | config, 1)


def test_muon_refuses_partitioned_weights():
    with pytest.raises(ConfigError, match="set deepspeed.zero_optimization.stage to 0"):
        start_deepspeed(nn.Linear(2, 2), {"optimizer": {"type": "Muon", "params": {"lr": 1e-3}},
                                          "zero_optimization": {"stage": 1}})


class Patches(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.mixins = nn.ModuleDict({"patch_embed": nn.ModuleDict({"proj": nn.Linear(inputs, 5)})})

    def forward(self, x):
        return self.mixins["patch_embed"]["proj"](x)


def test_grown_input_ignores_the_new_channels(tmp_path):
    small, large = Patches(4), Patches(8)
    save_checkpoint(tmp_path, 1, {"module": {f"model.diffusion_model.{k}": v for k, v in small.state_dict().items()}})
    load_partial(large, str(tmp_path), grow_input=True)
    x = torch.randn(3, 8)
    torch.testing.assert_close(large(x), small(x[:, :4]))
    with pytest.raises(CheckpointError, match=f"{PATCH_EMBEDDING} of at most 2 input channels"):
        load_partial(Patches(2), str(tmp_path), grow_input=True)
