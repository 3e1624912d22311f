"""Names with prefixes in any order are brought to the part's own; what could be two things is refused."""
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CheckpointError
from tests.dit_models import build
from tests.released_structures import random_vae
from weights.diffusers_layout import transformer_links
from weights.names import AUTOENCODER, TEXT_ENCODER, TRANSFORMER, named

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "transformer.", "model.", "_orig_mod.")
OURS = list(build().state_dict())
LINKS = transformer_links(OURS, {"patch_size": [1, 2, 2], "modules": {"pos_embed_config": {}}})
THEIRS = [name for link in LINKS for name in link.theirs]
VAE = list(random_vae().state_dict())
T5 = ["shared.weight", "encoder.embed_tokens.weight", "encoder.block.0.layer.0.SelfAttention.q.weight",
      "encoder.final_layer_norm.weight"]
BESIDE = ["model_ema.decay", "model_ema.diffusion_modeltime_embed0weight", "conditioner.embedders.0.transformer.shared"
          ".weight", "alphas_cumprod", "ema.transformer_blocks.0.norm1.linear.weight"]

stacks = st.lists(st.sampled_from(PREFIXES), max_size=5).map("".join)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(stacks, st.sampled_from(["ours", "theirs"]))
def test_any_stack_of_prefixes_is_removed(stack, layout):
    names = OURS if layout == "ours" else THEIRS
    assert named([stack + name for name in names], TRANSFORMER, "a.pt").theirs == {
        name: stack + name for name in names}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(("first_stage_model.", "vae.", "module.", "model.", "_orig_mod.")), max_size=4))
def test_any_stack_is_removed_from_an_autoencoder(stack):
    stack = "".join(stack)
    assert named([stack + name for name in VAE], AUTOENCODER, "a.pt").theirs == {name: stack + name for name in VAE}


@pytest.mark.parametrize("stack", ["", "text_encoders.t5xxl.transformer.", "conditioner.embedders.0.transformer.",
                                   "module.", "text_encoder._orig_mod."])
def test_prefixes_of_a_text_encoder(stack):
    assert named([stack + name for name in T5], TEXT_ENCODER, "a").theirs == {name: stack + name for name in T5}


def test_wrappers_inside_a_name_are_removed():
    found = named([name.replace("transformer_blocks.0.", "transformer_blocks.0._orig_mod.") for name in THEIRS],
                  TRANSFORMER, "a.pt")
    assert list(found.theirs) == THEIRS and found.prefixes == ("_orig_mod.",)


@pytest.mark.parametrize("stack", ["model.diffusion_model.", "module.", "diffusion_model._orig_mod."])
def test_of_a_whole_checkpoint_each_part_has_its_own(stack):
    transformer, vae = [stack + name for name in OURS], ["first_stage_model." + name for name in VAE]
    found = named([*transformer, *vae, *BESIDE], TRANSFORMER, "a.pt")
    assert list(found.theirs.values()) == transformer and set(found.others) == {*vae, *BESIDE}
    assert f"{len(vae) + len(BESIDE)} entries of other parts ignored" in "; ".join(found.described)
    assert list(named([*transformer, *vae, *BESIDE], AUTOENCODER, "a.pt").theirs.values()) == vae


def test_an_unknown_name_beside_known_ones_is_the_parts_and_can_be_compared():
    found = named([*(f"model.diffusion_model.{name}" for name in OURS), "model.diffusion_model.transformer.new.weight"],
                  TRANSFORMER, "a.pt")
    assert "transformer.new.weight" in found.theirs
    assert "new.weight" in named([*OURS, "new.weight"], TRANSFORMER, "a.pt").theirs


@pytest.mark.parametrize("one, two", [("", "module."), ("model.", "diffusion_model."), ("", "_orig_mod.")])
def test_two_names_of_one_tensor_are_refused(one, two):
    names = [f"{stack}{OURS[0]}" for stack in (one, two)]
    with pytest.raises(CheckpointError, match=re.escape(f"{names[0]} and {names[1]} are both {OURS[0]}")):
        named([*names, *OURS[1:]], TRANSFORMER, "a.pt")


def test_a_file_of_another_part_is_told():
    for names, vocabulary in ((T5[1:], TRANSFORMER), (["first_stage_model." + name for name in VAE], TRANSFORMER),
                              (OURS, AUTOENCODER), (["betas", "logvar"], TRANSFORMER)):
        with pytest.raises(CheckpointError, match=f"holds no {vocabulary.part}; its tensors are "):
            named(names, vocabulary, "a.pt")
