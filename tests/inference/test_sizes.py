"""Tests of frames, padding latent frames and sizes with the released configurations, and of invalid requests."""
from argparse import Namespace

import pytest

from common.errors import ConfigError
from inference.sizes import check_holdable, extend_positions, model_limits, plan_video, warn_sizes


def model(patch, frames, grid, rotary=True, learned=False):
    name = "Rotary3DPositionEmbeddingMixin" if rotary else "Basic3DPositionEmbeddingMixin"
    return {
        "network_config": {"params": {
            "num_frames": frames, "time_compressed_rate": 4, "latent_height": grid[0], "latent_width": grid[1],
            "patch_size": patch, "out_channels": 16, "modules": {"pos_embed_config": {
                "target": f"dit_video_concat.{name}", "params": {"learnable_pos_embed": learned}}}}},
        "first_stage_config": {"params": {"decoder_config": {"params": {"ch_mult": [1, 2, 2, 4], "z_channels": 16}}}},
    }


V1, V15 = model(2, 49, (60, 90)), model([2, 2, 2], 81, (300, 300))
SMALL = model([1, 2, 2], 17, (8, 8))


def plan(config, num_frames=None, latents=None, size=None, channels=16):
    args = Namespace(num_frames=num_frames, sampling_num_frames=latents, sampling_image_size=size, sampling_fps=8,
                     latent_channels=channels)
    return plan_video(model_limits(config), args)


@pytest.mark.parametrize("config, asked, frames, latent_shape, pad", [
    (V1, {}, 49, (13, 16, 60, 90), 0),
    (V1, {"latents": 13}, 49, (13, 16, 60, 90), 0),
    (V1, {"latents": 9}, 33, (9, 16, 60, 90), 0),
    (V1, {"num_frames": 9}, 9, (3, 16, 60, 90), 0),
    (V1, {"latents": 17}, 17, (5, 16, 60, 90), 0),
    (V15, {}, 81, (22, 16, 96, 170), 1),
    (V15, {"latents": 42}, 161, (42, 16, 96, 170), 1),
    (V15, {"num_frames": 161, "size": [1360, 768]}, 161, (42, 16, 170, 96), 1),
    (SMALL, {}, 17, (5, 16, 8, 8), 0),
    (SMALL, {"num_frames": 1}, 1, (1, 16, 8, 8), 0),
])
def test_what_is_asked_is_delivered(config, asked, frames, latent_shape, pad):
    planned = plan(config, **asked)
    assert (planned.frames, planned.latent_shape, planned.pad_latents) == (frames, latent_shape, pad)
    assert 4 * (planned.latent_frames - planned.pad_latents - 1) + 1 == frames


@pytest.mark.parametrize("config, asked, says", [
    (SMALL, {"num_frames": 18}, "the nearest is 17"),
    (SMALL, {"num_frames": 50}, "8 k \\+ 1 up to 513; the nearest is 49"),
    (V15, {"num_frames": 49 + 8}, "16 k \\+ 1 up to 5121; the nearest is 49"),
    (V1, {"latents": 50}, "8 k \\+ 1 up to 49; the nearest is 49"),
    (V1, {"num_frames": 0}, "the nearest is 1"),
    (SMALL, {"size": [64, 60]}, "the nearest is \\[64, 64\\]"),
    (SMALL, {"size": [480, 720]}, "up to 64 x 64"),
    (SMALL, {"channels": 4}, "latent_channels is 4"),
])
def test_what_cannot_be_made_names_the_nearest(config, asked, says):
    with pytest.raises(ConfigError, match=says):
        plan(config, **asked)


def test_scaled_positions_have_room_for_every_size():
    scaled = model(2, 49, (60, 90))
    scaled["network_config"]["params"]["modules"]["pos_embed_config"]["params"]["other_sizes"] = "diffusers"
    assert plan(scaled).patches == (13, 30, 45) and plan(scaled, size=[1024, 768]).patches == (13, 64, 48)
    with pytest.raises(ConfigError, match="only multiples of 16; the nearest is \\[1024, 768\\]"):
        plan(scaled, size=[1025, 770])


def test_what_no_machine_holds_is_refused():
    planned = plan(SMALL)
    check_holdable(planned, 100)
    with pytest.raises(ConfigError, match="1000000000 video.s. at a time of 17 frames of 64 x 64 take more than"):
        check_holdable(planned, 10**9)


def test_positions_reach_as_far_as_the_video():
    config = model([2, 2, 2], 81, (300, 300))
    extend_positions(config, 161)
    assert config["network_config"]["params"]["num_frames"] == 161
    learned = model_limits(model([2, 2, 2], 81, (300, 300), learned=True))  # a learned table cannot be extended
    assert learned.trained_frames == 81 and learned.longer == {"windows": 32 * 80 + 1}
    assert model_limits({**SMALL, "noised_image_input": True}).longer == {}


def test_parts_that_disagree_are_refused():
    config = model(2, 49, (60, 90))
    config["first_stage_config"]["params"]["decoder_config"]["params"]["z_channels"] = 8
    with pytest.raises(ConfigError, match="z_channels 8"):
        model_limits(config)


def test_videos_of_a_size_without_positions_of_their_own_are_warned_of_once(caplog):
    fixed = model_limits(model(2, 49, (60, 90), rotary=False))
    usual, other = (plan(model(2, 49, (60, 90), rotary=False), size=size) for size in (None, (256, 256)))
    warn_sizes(fixed, [usual, other, other])
    warn_sizes(fixed, [usual])
    warn_sizes(model_limits(V1), [other])
    said, = caplog.messages
    assert said.endswith("were made for 480 x 720; 2 video(s) of another size will look wrong")
