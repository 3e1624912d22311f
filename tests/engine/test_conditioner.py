"""Tests of text conditioning: unconditional zeros, dropout only in training, frozen encoders, missing folders."""
import pytest
import torch

from common.errors import ConfigError, UserError
from configuration.targets import allow_targets
from engine.conditioner import GeneralConditioner
from engine.text_encoder import AbstractEmbModel, FrozenT5Embedder

T5 = "sgm.modules.encoders.modules.FrozenT5Embedder"


def conditioner(folder, rate=0.0, **extra):
    return GeneralConditioner([{"target": T5, "input_key": "txt", "ucg_rate": rate, **extra,
                                "params": {"model_dir": str(folder / "t5"), "max_length": 12}}])


def test_unconditional_is_zeros_when_forced_and_the_negative_prompt_otherwise(small_model):
    cond = conditioner(small_model)
    batch, negative = {"txt": ["a red circle", ""]}, {"txt": ["a blue square", "a"]}
    c, uc = cond.get_unconditional_conditioning(batch, negative, force_uc_zero_embeddings=["txt"])
    assert c["crossattn"].shape == (2, 12, 16) and not uc["crossattn"].any()
    _, uc = cond.get_unconditional_conditioning(batch, negative)
    assert torch.equal(uc["crossattn"], cond(negative)["crossattn"])
    _, uc = cond.get_unconditional_conditioning(batch)
    assert not uc["crossattn"].any(), "with neither it is not the conditional one, with which guidance would do nothing"


def test_a_conditioning_has_the_half_that_training_drops_to(small_model):
    allow_targets(__name__)
    both = conditioner(small_model).conditioning({"txt": ["a red circle"] * 2}, {"txt": ["a", ""]})
    assert both.rows == 2 and torch.equal(both.uncond["crossattn"], conditioner(small_model)({"txt": ["a", ""]})[
        "crossattn"])
    for rates, zeroed in (((0.1, 0.0), (True, False)), ((0.0, 0.0), (True, True)), ((0.0, 0.1), (False, True))):
        made = GeneralConditioner([{"target": f"{__name__}.Label", "input_key": key, "ucg_rate": rate}
                                   for key, rate in zip("ab", rates, strict=True)])
        half = made.conditioning({"a": torch.ones(1, 2), "b": torch.ones(1, 2, 3)}).half(unconditional=True)
        assert (not half["vector"].any(), not half["crossattn"].any()) == zeroed


def test_nothing_is_dropped_in_evaluation(small_model):
    made, batch = conditioner(small_model, rate=1.0), {"txt": ["a red circle"]}
    assert not made.train()(batch)["crossattn"].any()
    assert made.eval()(batch)["crossattn"].any() and not made.dropped(batch)["crossattn"].any()


def test_a_prompt_does_not_depend_on_its_neighbours(small_model):
    cond = conditioner(small_model)
    together = cond({"txt": ["a red circle", "moves left " * 30]})["crossattn"]
    torch.testing.assert_close(cond({"txt": ["a red circle"]})["crossattn"][0], together[0])


def test_training_drops_whole_examples_at_the_rate(small_model):
    torch.manual_seed(0)
    dropped = ~conditioner(small_model, rate=0.3)({"txt": ["a red circle"] * 400})["crossattn"].flatten(1).any(1)
    assert 0.22 < dropped.float().mean() < 0.38


def test_a_frozen_encoder_stays_in_evaluation_and_without_gradients(small_model):
    cond = conditioner(small_model).train()
    assert not cond.embedders[0].training and not any(p.requires_grad for p in cond.parameters())
    assert not cond({"txt": ["a"]})["crossattn"].requires_grad
    assert conditioner(small_model, is_trainable=True).train().embedders[0].training


@pytest.mark.parametrize("missing", ["spiece.model", "model.safetensors", ""])
def test_missing_files_are_named(small_model, tmp_path, missing):
    for path in (small_model / "t5").iterdir():
        if missing and path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=missing or "no config.json"):
        FrozenT5Embedder(str(tmp_path))
    with pytest.raises(ConfigError, match="does not exist"):
        FrozenT5Embedder(str(tmp_path / "nowhere"))


class Label(AbstractEmbModel):
    def forward(self, label):
        return label


def test_outputs_are_keyed_by_rank_and_joined():
    allow_targets(__name__)
    config = [{"target": f"{__name__}.Label", "input_key": key} for key in "abc"]
    out = GeneralConditioner(config)({"a": torch.ones(2, 3), "b": torch.zeros(2, 4), "c": torch.ones(2, 5, 1, 1, 1)})
    assert out["vector"].shape == (2, 7) and out["concat"].shape == (2, 5, 1, 1, 1)
    with pytest.raises(ValueError, match="1-dimensional"):
        GeneralConditioner(config[:1])({"a": torch.ones(2)})


def test_an_entry_without_input_key_or_with_another_class_is_refused():
    with pytest.raises(ConfigError, match="input_key is missing"):
        allow_targets(__name__)
        GeneralConditioner([{"target": f"{__name__}.Label"}])
    with pytest.raises(ConfigError, match="not an embedder"):
        GeneralConditioner([{"target": "torch.nn.Identity", "input_key": "txt"}])
