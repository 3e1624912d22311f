"""LPIPS against its formula on random weights in the layouts of torchvision and of the package lpips."""
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from common.errors import CheckpointError
from vae_modules.lpips import load_lpips

# Position in torchvision's list of layers to the width of a convolution; None: pooling. Features are taken after
# the convolutions in TAKEN.
LAYERS = {0: 64, 2: 64, 4: None, 5: 128, 7: 128, 9: None, 10: 256, 12: 256, 14: 256, 16: None, 17: 512, 19: 512,
          21: 512, 23: None, 24: 512, 26: 512, 28: 512}
TAKEN = (2, 7, 14, 21, 28)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of random weights, and their content."""
    folder, g, before = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0), 3
    vgg, linear = {"classifier.0.weight": torch.zeros(2)}, {}
    for place, width in LAYERS.items():
        if width is not None:
            vgg[f"features.{place}.weight"] = torch.randn(width, before, 3, 3, generator=g) / (4.5 * before) ** 0.5
            vgg[f"features.{place}.bias"] = torch.randn(width, generator=g) * 0.1
            before = width
    for number, place in enumerate(TAKEN):
        linear[f"lin{number}.model.1.weight"] = torch.rand(1, LAYERS[place], 1, 1, generator=g)
    torch.save(vgg, folder / "vgg16.pth")
    save_file(linear, folder / "vgg.safetensors")
    return str(folder / "vgg16.pth"), str(folder / "vgg.safetensors"), vgg, linear


def by_formula(x, y, vgg, linear):
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    both, total = (torch.cat((x, y)) - shift) / scale, 0
    for place, width in LAYERS.items():
        if width is None:
            both = F.max_pool2d(both, 2, 2)
            continue
        both = F.relu(F.conv2d(both, vgg[f"features.{place}.weight"], vgg[f"features.{place}.bias"], padding=1))
        if place in TAKEN:
            a, b = (both / both.norm(dim=1, keepdim=True).clamp_min(1e-10)).chunk(2)
            total = total + F.conv2d((a - b) ** 2, linear[f"lin{TAKEN.index(place)}.model.1.weight"]).mean((1, 2, 3))
    return total


def test_distances_are_those_of_the_formula_and_none_for_equals(files):
    network = load_lpips(*files[:2])
    x, y = (torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (1, 2))
    found = network(x, y)
    torch.testing.assert_close(found, by_formula(x, y, *files[2:]), rtol=1e-4, atol=0)
    assert found.shape == (2,) and (found > 0).all()
    assert network(x, x).abs().max() == 0
    assert not any(p.requires_grad for p in network.parameters())


def test_features_that_are_all_zero_have_a_finite_gradient(files):
    network = load_lpips(*files[:2])
    for block in network.blocks:
        block[-2].bias.fill_(-1e3)
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    network(x, torch.ones(1, 3, 16, 16)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_other_files_are_one_line(files, tmp_path):
    vgg, linear = files[:2]
    with pytest.raises(CheckpointError, match="none.pth is no file; it should be VGG16 .* nothing is downloaded"):
        load_lpips("none.pth", linear)
    with pytest.raises(CheckpointError, match="vgg16.pth is not the weights that the package lpips .*missing: lin0"):
        load_lpips(vgg, vgg)
    wrong = {name: value for name, value in files[3].items()}
    save_file(wrong | {"lin1.model.1.weight": torch.full((1, 128, 1, 1), -0.1)}, tmp_path / "negative.safetensors")
    with pytest.raises(CheckpointError, match="negative.safetensors has weights below 0"):
        load_lpips(vgg, str(tmp_path / "negative.safetensors"))
    for channels in ((64, 192, 384, 256, 256), (64, 128, 256, 384, 384, 512, 512)):  # the package's others
        save_file({f"lin{i}.model.1.weight": torch.ones(1, n, 1, 1) for i, n in enumerate(channels)},
                  tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match="shapes differ: lin"):
            load_lpips(vgg, str(tmp_path / "other.safetensors"))
    wrong["lin2.model.1.weight"] = torch.ones(1, 7, 1, 1)
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match="lin2.model.1.weight is 1x7x1x1, wanted 1x256x1x1"):
        load_lpips(vgg, str(tmp_path / "wrong.safetensors"))
