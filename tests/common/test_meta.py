"""Tests of modules without memory: their shapes are right, and nothing is spent on their values."""
import subprocess
import sys

import torch
from torch import nn

from common.files import REPOSITORY
from common.meta import without_memory


def test_modules_have_shapes_and_no_values():
    with without_memory():
        made = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 6), nn.Conv3d(2, 2, 3), nn.LayerNorm(7))
        nn.init.normal_(tensor=made[0].weight)
    assert {parameter.device.type for parameter in made.parameters()} == {"meta"}
    assert made[1].weight.shape == (5, 6)
    assert nn.init.ones_(torch.zeros(2)).tolist() == [1, 1], "outside of it initializers work"


def test_a_small_model_is_built_without_the_compiler():
    program = ("import sys; sys.path.insert(0, 'sat')\nimport torch\nfrom common.meta import without_memory\n"
               "with without_memory():\n    torch.nn.Embedding(2, 3)\nsys.exit('torch._dynamo' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
