"""Positions at sizes and lengths other than the trained ones: as released, as in diffusers, by RIFLEx."""
import math

import pytest
import torch

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from network.positions import (
    Basic2DPositionEmbeddingMixin,
    Basic3DPositionEmbeddingMixin,
    Rotary3DPositionEmbeddingMixin,
)
from network.rotary_axes import frequencies, intrinsic_frequency, period, riflex
from tests.dit_models import ROTARY, config

CPU = torch.device("cpu")
TRAINED = (13, 30, 45)  # of CogVideoX-5B, in patches


def rotary(**params):
    time, height, width = TRAINED
    return Rotary3DPositionEmbeddingMixin(height, width, time, 64 * 2, 64, text_length=3, **params)


@pytest.mark.parametrize("grid", [TRAINED, (13, 45, 30), (5, 24, 40), (13, 30, 30), (9, 10, 44), (1, 7, 11)])
def test_rotary_positions_are_those_of_diffusers(grid, diffusers):
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
    crops = get_resize_crop_region_for_grid(grid[1:], TRAINED[2], TRAINED[1])
    cos, sin = get_3d_rotary_pos_embed(64, crops, grid[1:], temporal_size=grid[0])
    ours = rotary(other_sizes="diffusers").rotary(grid, 0, CPU)
    for mine, theirs in zip(ours, (cos, sin), strict=True):
        torch.testing.assert_close(mine.repeat_interleave(2, 1), theirs, atol=1e-6, rtol=0)


def test_at_the_trained_size_both_agree():
    for theirs, ours in zip(rotary(other_sizes="diffusers").rotary(TRAINED, 3, CPU), rotary().rotary(TRAINED, 3, CPU),
                            strict=True):
        assert torch.equal(theirs, ours)


def test_sincos_positions_of_a_smaller_grid_are_those_of_diffusers(diffusers):
    from diffusers.models.embeddings import get_3d_sincos_pos_embed
    scales = dict(height_interpolation=1.875, width_interpolation=1.875)
    own, first = (Basic3DPositionEmbeddingMixin(6, 9, 4, 64, text_length=3, **scales, other_sizes=kind)
                  for kind in ("diffusers", "release"))
    for mixin in (own, first):
        mixin.reinit()
    context = type("Context", (), dict(grid=(3, 4, 8), text_length=3))
    found = own.position_embedding_forward(None, context)
    theirs = get_3d_sincos_pos_embed(64, (8, 4), 3, 1.875, 1.0, output_type="pt").flatten(0, 1)
    torch.testing.assert_close(found[0, 3:], theirs.float(), atol=1e-6, rtol=0)
    assert not torch.allclose(first.position_embedding_forward(None, context), found)


@pytest.mark.parametrize("grid", [(13, 30, 45), (20, 30, 45)])
def test_riflex_changes_nothing_while_no_period_is_exceeded(grid):
    k = intrinsic_frequency(13, 16, 10000.0)
    given = frequencies(16, 10000.0)
    assert k == 2 and period(k, 16, 10000.0) == 20  # as published for CogVideoX-5B
    assert torch.equal(riflex(16, 10000.0, k, grid[0]), given)


def test_riflex_lowers_one_frequency_so_that_the_video_stays_within_a_period():
    given = frequencies(16, 10000.0)
    changed = riflex(16, 10000.0, 2, 25)
    assert float(changed[1]) == pytest.approx(0.9 * 2 * math.pi / 25) and float(changed[1]) < float(given[1])
    assert torch.equal(changed[[0, *range(2, 8)]], given[[0, *range(2, 8)]])


def test_riflex_turns_only_the_channels_of_its_frequency():
    mixins = [rotary(riflex=value) for value in (None, {"k": 2}, True)]
    for mixin in mixins:
        mixin.grid = (25, 30, 45)
    plain, told, found = (mixin.rotary((25, 2, 2), 3, CPU)[0] for mixin in mixins)
    assert torch.equal(told, found)
    assert (plain != told).any(dim=0).nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("params, message", [
    ({"riflex": {"k": 0}}, r"riflex: {'k': 0} must be true, false or {k: n} with n from 1 to 8"),
    ({"riflex": {"k": 9}}, "n from 1 to 8"), ({"riflex": {"n": 2}}, "riflex"), ({"riflex": 2}, "riflex"),
    ({"learnable_pos_embed": True, "riflex": True}, "leave out riflex"),
    ({"learnable_pos_embed": True, "other_sizes": "diffusers"}, "leave out other_sizes")])
def test_wrong_keys_are_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        rotary(**params)


def test_another_name_for_other_sizes_is_refused():
    positions = {**ROTARY, "params": {**ROTARY["params"], "other_sizes": "sat"}}
    with pytest.raises(ConfigError, match="other_sizes is 'sat'; it must be release or diffusers"):
        instantiate_from_config(config(positions))


def test_with_patches_of_several_frames_there_is_nothing_to_choose():
    positions = {**ROTARY, "params": {**ROTARY["params"], "other_sizes": "diffusers"}}
    with pytest.raises(ConfigError, match="leave it out"):
        instantiate_from_config(config(positions, patch_size=[3, 2, 2]))


def test_a_network_built_without_memory_leaves_the_table_of_the_next_one_alone():
    sizes = dict(height=3, width=4, compressed_num_frames=2, hidden_size=32)
    with torch.device("meta"):
        Basic3DPositionEmbeddingMixin(**sizes).reinit()
    built = Basic3DPositionEmbeddingMixin(**sizes)
    built.reinit()
    assert built.pos_embedding.abs().sum() > 0


def test_positions_of_one_frame_have_no_other_sizes():
    with pytest.raises(ConfigError, match="other_sizes: diffusers has no positions of height and width alone"):
        Basic2DPositionEmbeddingMixin(4, 4, 2, 32, other_sizes="diffusers")
