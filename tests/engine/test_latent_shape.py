"""Tests of the latent shape of a run: from the conditioning and the model, and refused in one line if it is wrong."""
import pytest
import torch

from arguments import get_args
from common.errors import ConfigError
from common.files import REPOSITORY
from configuration.model import ModelConfig
from engine.latent_shape import batch_of, shape_of, usual_shape
from inference.sizes import model_limits, plan_video
from sgm.conditioning import Conditioning

CONFIGS = ("tiny_t2v", "tiny_i2v", "cogvideox_2b", "cogvideox_5b", "cogvideox_5b_i2v", "cogvideox1.5_5b")


def config_of(name):
    args = get_args(["--base", str(REPOSITORY / f"configs/{name}.yaml"), str(REPOSITORY / "configs/inference.yaml")])
    return args, ModelConfig.read(args.model_config)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_usual_shape_is_that_of_a_video_without_further_wishes(name):
    args, config = config_of(name)
    args.sampling.sampling_num_frames = args.sampling.sampling_image_size = None
    assert usual_shape(config) == plan_video(model_limits(args.model_config), args.sampling).latent_shape


def text(rows=2, **more):
    return Conditioning({"crossattn": torch.zeros(rows, 4, 8), **more})


def test_batch_and_shape_follow_from_the_conditioning():
    _, config = config_of("tiny_i2v")
    image = text(concat=torch.zeros(2, 3, 16, 6, 4))
    assert batch_of(image, None) == batch_of(image, 2) == 2
    assert shape_of(config, image) == shape_of(config, image, [3, 16, 6, 4]) == (3, 16, 6, 4)
    assert shape_of(config, text()) == (5, 16, 8, 8) and shape_of(config, text(), torch.Size([1, 16, 8, 8])) == (
        1, 16, 8, 8)


@pytest.mark.parametrize(("shape", "says"), [
    ((16, 5, 8, 8), r"16 channels; the axes are \(latent frames, channels.*is it \[5, 16, 8, 8\]\?"),
    ((5, 4, 8, 8), "this model's latents have 16 channels"), ((5, 16, 8, 7), r"multiples of the patch \[1, 2, 2\]"),
    ((5, 16, 8), "four whole numbers"), ((), "four whole numbers"), (5, "shape is 5; it must be"),
    ((5, 16, 8.0, 8), "four whole numbers"), ((0, 16, 8, 8), "above 0"),
    ((5, 16, 4, 4), r"the conditioning's concat is \[5, 16, 8, 8\]"),
])
def test_a_wrong_shape_is_one_line(shape, says):
    with pytest.raises(ConfigError, match=says) as error:
        shape_of(config_of("tiny_i2v")[1], text(concat=torch.zeros(2, 5, 16, 8, 8)), shape)
    assert "\n" not in str(error.value)


def test_a_wrong_batch_is_one_line():
    with pytest.raises(ConfigError, match=r"batch_size is 3, but the conditioning is of 2 video\(s\)"):
        batch_of(text(), 3)
    with pytest.raises(ConfigError, match="the conditioning is empty"):
        batch_of(Conditioning({}), None)
