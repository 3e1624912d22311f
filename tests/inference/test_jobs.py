"""Tests of jobs: what a long list of them keeps in memory, and files that change under way."""
import gc
from dataclasses import replace

import pytest
import torch
from PIL import Image

from arguments import get_args
from common.errors import DataError
from common.files import REPOSITORY
from inference.jobs import plan_jobs
from inference.prompts import read_prompts
from inference.sizes import model_limits


@pytest.fixture
def jobs(tmp_path):
    """The jobs of eight prompts with a first and a last picture each."""
    for name, color in (("first", (200, 30, 30)), ("last", (30, 30, 200))):
        Image.new("RGB", (320, 320), color).save(tmp_path / f"{name}.png")
    (tmp_path / "prompts.txt").write_text("a red circle@@first.png@@last.png\n" * 8)
    args = get_args(["--base", *(str(REPOSITORY / "configs" / name) for name in ("tiny_i2v.yaml", "inference.yaml"))])
    settings = replace(args.sampling, sampling_image_size=[32, 64])
    prompts = read_prompts(str(tmp_path / "prompts.txt"), "image")
    return plan_jobs(prompts, model_limits(args.model_config), settings, image_input=True)


def test_pictures_take_no_memory_until_they_are_needed(jobs):
    gc.collect()
    assert not [held for held in gc.get_objects() if type(held) is torch.Tensor and held.shape == (3, 32, 64)]
    assert jobs[0].image().shape == jobs[7].last().shape == (3, 32, 64)
    assert jobs[0].image()[0].mean() > 0.5 > jobs[0].last()[0].mean()


def test_a_picture_that_changes_under_way_is_one_line(jobs, tmp_path):
    jobs[0].check_unchanged()
    Image.new("RGB", (320, 320), (0, 0, 0)).save(tmp_path / "last.png")
    with pytest.raises(DataError, match=r"last.png was changed or removed while the run was under way"):
        jobs[0].check_unchanged()
    (tmp_path / "first.png").unlink()
    with pytest.raises(DataError, match=r"first.png was changed or removed"):
        jobs[7].check_unchanged()
