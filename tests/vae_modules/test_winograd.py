import pytest
import torch

from common import cpu_operations
from tests.vae_modules.small_vae import frames
from vae_modules import winograd
from vae_modules.memory_order import in_memory_order


@pytest.fixture(autouse=True)
def little_work_pays(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(winograd, "pays_in_bfloat16", lambda: True)
    monkeypatch.setattr(cpu_operations, "CPU_HAS_BFLOAT16", True)


def video_and_front(batch, channels, count, leading, dtype=torch.float32):
    """Return a chunk and the two frames before it, in the order of memory that the layers have."""
    x, before = (in_memory_order(frames(batch, channels, n, 11, 10, seed=n).to(dtype)) for n in (count, 20))
    return x, x[:, :, :1].expand(-1, -1, 2, -1, -1) if leading else before[:, :, :2]


def relative_error(out, expected):
    return float((out.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("overwrites", [False, True])
@pytest.mark.parametrize("outputs", [32, 40])
@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize(("batch", "count"), [(2, 1), (1, 2), (1, 3), (2, 7), (1, 9)])
@torch.no_grad()
def test_it_is_the_convolution(batch, count, leading, outputs, overwrites):
    """All ways in time occur: a first frame alone, four, two and one, with the result in x's memory or its own."""
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(32, outputs, 3, padding=(0, 1, 1))
    x, front = video_and_front(batch, 32, count, leading)
    whole = torch.cat((front, x), dim=2)
    expected = conv(whole)
    assert winograd.pays(x, conv.weight, leading) == ((leading or count > 1) and batch * count * 110 >= 8 * outputs)
    out, last = winograd.convolve(front, x, conv.weight, conv.bias, leading, overwrites)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(last, whole[:, :, -2:])
    assert (out.data_ptr() == x.data_ptr()) == (overwrites and outputs == 32)
    assert overwrites or torch.equal(x, whole[:, :, 2:])
    assert out.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@torch.no_grad()
def test_in_bfloat16_it_is_that_of_its_inputs(count, leading):
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(32, 40, 3, padding=(0, 1, 1)).bfloat16()
    x, front = video_and_front(1, 32, count, leading, torch.bfloat16)
    out, _ = winograd.convolve(front, x, conv.weight, conv.bias, leading)
    expected = torch.nn.functional.conv3d(torch.cat((front, x), dim=2).double(), conv.weight.double(),
                                          conv.bias.double(), padding=(0, 1, 1))
    assert out.dtype == torch.bfloat16 and relative_error(out, expected) < 0.006


@pytest.mark.parametrize("overwrites", [False, True])
@pytest.mark.parametrize(("dtype", "instructions"), [(torch.bfloat16, "CPU_HAS_BFLOAT16"),
                                                     (torch.float16, "CPU_HAS_FLOAT16")])
@torch.no_grad()
def test_a_dtype_that_is_only_emulated_is_rounded_once(dtype, instructions, overwrites, monkeypatch):
    monkeypatch.setattr(cpu_operations, instructions, False)
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(32, 32, 3, padding=(0, 1, 1)).to(dtype)
    x, front = video_and_front(1, 32, 7, leading=False, dtype=dtype)
    whole = torch.cat((front, x), dim=2)
    assert winograd.pays(x, conv.weight, leading=False)
    expected = torch.nn.functional.conv3d(whole.double(), conv.weight.double(), conv.bias.double(), padding=(0, 1, 1))
    out, last = winograd.convolve(front, x, conv.weight, conv.bias, False, overwrites)
    assert out.dtype == last.dtype == dtype and torch.equal(last, whole[:, :, -2:])
    assert relative_error(out, expected) < torch.finfo(dtype).eps / 2


@torch.no_grad()
def test_it_is_for_much_work_without_gradients(monkeypatch):
    conv = torch.nn.Conv3d(32, 32, 3).bfloat16()
    x, _ = video_and_front(1, 32, 4, leading=False, dtype=torch.bfloat16)
    assert winograd.pays(x, conv.weight, leading=False)
    assert not winograd.pays(x.to("meta"), conv.weight, leading=False)
    with torch.enable_grad():
        assert not winograd.pays(x, conv.weight, leading=False)
    assert not winograd.pays(x[:, :, :1], conv.weight, leading=False)
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 2**30)
    assert not winograd.pays(x, conv.weight, leading=False)
    monkeypatch.setattr(winograd, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(winograd, "pays_in_bfloat16", lambda: False)
    assert not winograd.pays(x, conv.weight, leading=False)


@pytest.mark.parametrize("overwrites", [False, True])
@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_it_goes_strip_by_strip(dtype, leading, overwrites, monkeypatch):
    conv = torch.nn.Conv3d(32, 32, 3, padding=(0, 1, 1)).to(dtype)
    x, front = video_and_front(1, 32, 8, leading, dtype)
    expected, _ = winograd.convolve(front, x, conv.weight, conv.bias, leading)
    monkeypatch.setattr(winograd, "STRIP_VALUES", 0)
    monkeypatch.setattr(winograd, "STRIP_ROWS", 4)  # strips of 4, 4 and 3 rows
    strips, _ = winograd.convolve(front, x, conv.weight, conv.bias, leading, overwrites)
    assert relative_error(strips, expected.double()) < (1e-6 if dtype == torch.float32 else 3e-3)


@torch.no_grad()
def test_a_frame_that_stands_still_takes_one_product(monkeypatch):
    counted = []
    convolution = winograd.convolution
    monkeypatch.setattr(winograd, "convolution", lambda x, *rest: counted.append(x.dim()) or convolution(x, *rest))
    conv = torch.nn.Conv3d(32, 32, 3)
    for leading in (True, False):
        counted.clear()
        x, front = video_and_front(1, 32, 9, leading)
        winograd.convolve(front, x, conv.weight, conv.bias, leading)
        assert counted == ([4] + 12 * [4] if leading else 12 * [4] + [5])


@pytest.mark.parametrize(("leading", "count", "kernels"), [(True, 9, [1, 6]), (False, 2, [4]), (True, 3, [1, 4]),
                                                           (False, 7, [6, 4, 1])])
@torch.no_grad()
def test_a_kernel_is_transformed_for_the_ways_that_are_taken(leading, count, kernels, monkeypatch):
    made = []
    for name in ("STANDING", "FOUR", "TWO", "ONE"):
        way = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, way._replace(
            kernels=lambda *given, way=way: made.append(way.kernels(*given)) or made[-1]))
    monkeypatch.setattr(winograd, "GROUPS", {torch.float32: [winograd.FOUR, winograd.TWO, winograd.ONE]})
    x, front = video_and_front(1, 32, count, leading)
    winograd.convolve(front, x, torch.ones(32, 32, 3, 3, 3), None, leading)
    assert [len(each) for each in made] == kernels
