"""Tests of matrix products and convolutions in the precision that the processor computes fast."""
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from common import cpu_operations


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_linear_is_rounded_once_at_most(has_bfloat16, monkeypatch):
    monkeypatch.setattr(cpu_operations, "CPU_HAS_BFLOAT16", has_bfloat16)
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g).bfloat16() for shape in ((5, 64), (32, 64), (32,)))
    out = cpu_operations.linear(x, weight, bias)
    expected = x.double() @ weight.double().T + bias.double()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=2 ** -7)


@pytest.mark.parametrize(("dtype", "instructions"), [(torch.bfloat16, "CPU_HAS_BFLOAT16"),
                                                     (torch.float16, "CPU_HAS_FLOAT16")])
@pytest.mark.parametrize("kernel", [(3, 3), (3, 3, 3)])
def test_what_a_processor_only_emulates_is_computed_in_float32(kernel, dtype, instructions, monkeypatch):
    """Linear layers and convolutions are rounded once, and their gradients too; emulated they take a hundred times."""
    monkeypatch.setattr(cpu_operations, instructions, False)
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g).to(dtype).requires_grad_()
                       for shape in ((1, 4, *(5 for _ in kernel)), (6, 4, *kernel), (6,)))
    exact = (torch.nn.functional.conv2d if len(kernel) == 2 else torch.nn.functional.conv3d)(
        x.double(), weight.double(), bias.double(), padding=1)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            out = cpu_operations.convolution(x, weight, bias, [1] * len(kernel))
        assert out.dtype == dtype and out.requires_grad == gradients
        torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    flat, matrix = x.flatten(1)[:, :20], weight.flatten(1)[:, :20]
    exact = flat.double() @ matrix.double().T + bias.double()
    out = cpu_operations.linear(flat, matrix, bias)
    torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert cpu_operations.product_dtype(dtype) == torch.float32
    monkeypatch.setattr(cpu_operations, instructions, True)
    assert cpu_operations.product_dtype(dtype) == dtype


def test_small_float32_products_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu_operations, "onednn_is_faster", lambda: pytest.fail("measured"))
    x, weight = torch.randn(3, 4), torch.randn(2, 4)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert torch.equal(cpu_operations.linear(x, weight, None), torch.nn.functional.linear(x, weight))


@pytest.mark.skipif(cpu_operations.FUSED_LINEAR is None, reason="torch has no oneDNN here")
@pytest.mark.parametrize("trained", [(True, True, True), (True, False, False), (False, True, False)])
def test_gradients_of_large_float32_products_are_those_of_the_library(trained, monkeypatch):
    calls, fused = [], cpu_operations.FUSED_LINEAR
    monkeypatch.setattr(cpu_operations, "FUSED_LINEAR", lambda *given: calls.append(given) or fused(*given))
    monkeypatch.setattr(cpu_operations, "onednn_is_faster", lambda: True)
    g = torch.Generator().manual_seed(0)
    drawn = [torch.randn(*shape, generator=g) for shape in ((2, 128, 128), (256, 128), (256,))]
    outer = torch.randn(2, 128, 256, generator=g)
    ours, library = ([x.detach().to(dtype).requires_grad_(wanted) for x, wanted in zip(drawn, trained, strict=True)]
                     for dtype in (torch.float32, torch.float64))
    (outer * cpu_operations.gelu_tanh(cpu_operations.linear(*ours))).sum().backward()
    (outer * torch.nn.functional.gelu(torch.nn.functional.linear(*library), approximate="tanh")).sum().backward()
    assert len(calls) == 1 + sum(trained[:2])
    for own, expected in zip(ours, library, strict=True):
        assert (own.grad is None) == (expected.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(cpu_operations.FUSED_LINEAR is None, reason="torch has no oneDNN here")
@pytest.mark.parametrize("way", [cpu_operations.linear, cpu_operations.linear_gelu_tanh])
@torch.no_grad()
def test_large_float32_products_go_where_they_are_faster(way, monkeypatch):
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g) for shape in ((2, 128, 128), (256, 128), (256,)))
    expected = x.double() @ weight.double().T + bias.double()
    if way is cpu_operations.linear_gelu_tanh:
        expected = torch.nn.functional.gelu(expected, approximate="tanh")
    calls, fused = [], cpu_operations.FUSED_LINEAR
    monkeypatch.setattr(cpu_operations, "FUSED_LINEAR", lambda *given: calls.append(given) or fused(*given))
    for faster in (True, False):
        monkeypatch.setattr(cpu_operations, "onednn_is_faster", lambda faster=faster: faster)
        torch.testing.assert_close(way(x, weight, bias).double(), expected, rtol=1e-5, atol=1e-5)
        assert len(calls) == 1
    monkeypatch.setattr(cpu_operations, "onednn_is_faster", lambda: True)
    across = weight.t().contiguous().t()  # rows that do not follow each other in memory
    torch.testing.assert_close(way(x, across, bias).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(cpu_operations.FUSED_LINEAR is None, reason="torch has no oneDNN here")
@pytest.mark.parametrize("gradients, faster", [(True, True), (False, True), (False, False)])
def test_the_compiler_leaves_products_to_the_faster_library(gradients, faster, monkeypatch):
    monkeypatch.setattr(cpu_operations, "onednn_is_faster", lambda: faster)
    torch.compiler.reset()
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g) for shape in ((2, 130, 128), (256, 128), (256,)))

    def layer(x):
        return cpu_operations.linear(x, weight, bias) + cpu_operations.linear_gelu_tanh(x, weight, bias)
    graphs = CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, backend=graphs, dynamic=True, fullgraph=True)
    with torch.set_grad_enabled(gradients):
        for tokens in (130, 96, 3):  # the last is so small that BLAS takes it
            part = x[:, :tokens].clone()
            torch.testing.assert_close(compiled(part), layer(part), rtol=1e-5, atol=1e-5)
    (graph,) = graphs.graphs
    called = [node.target for node in graph.graph.nodes].count(torch.ops.cogvideo.linear_on_cpu.default)
    assert called == (0 if gradients else 2)


@pytest.mark.parametrize("shape, kernel, padding, stride", [
    ((1, 6, 5, 9, 8), (4, 6, 3, 3, 3), (0, 1, 1), 1), ((1, 6, 9, 8), (4, 6, 3, 3), (1, 1), 1),
    ((2, 6, 9, 8), (4, 6, 3, 3), (0, 0), 2), ((1, 6, 9, 8), (4, 6, 3, 3), (0, 1), 1)])
def test_a_convolution_is_that_of_the_library(shape, kernel, padding, stride):
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=g) for size in (shape, kernel, kernel[:1]))
    library = torch.nn.functional.conv3d if len(padding) == 3 else torch.nn.functional.conv2d
    expected = library(x.double(), weight.double(), bias.double(), stride, padding)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            out = cpu_operations.convolution(x, weight, bias, padding, stride)
            torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    weight.requires_grad_()
    cpu_operations.convolution(x, weight, bias, padding, stride).sum().backward()
    assert weight.grad is not None


def test_gelu_is_that_of_the_library_at_every_size_of_its_argument():
    x = torch.cat((torch.linspace(-30, 30, 6001), torch.tensor([-1e30, 1e30, 0.0, -0.0])))
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh")
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            torch.testing.assert_close(cpu_operations.gelu_tanh(x).double(), expected, rtol=1e-6, atol=1e-6)
    given = x.clone()
    with torch.no_grad():
        few = cpu_operations.gelu_tanh(x)
        assert torch.equal(x, given)
        torch.testing.assert_close(cpu_operations.gelu_tanh(x.repeat(100)), few.repeat(100), rtol=1e-6, atol=1e-6)
        assert cpu_operations.gelu_tanh(given, overwrites=True) is given and torch.equal(given, few)


@pytest.mark.parametrize("dtype, has_bfloat16",
                         [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float32, True)])
@torch.no_grad()
def test_gelu_after_a_linear_layer_is_exact_to_the_dtype(dtype, has_bfloat16, monkeypatch):
    monkeypatch.setattr(cpu_operations, "CPU_HAS_BFLOAT16", has_bfloat16)
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g).to(dtype) for shape in ((2, 5, 64), (32, 64), (32,)))
    for given in (bias, None):
        out = cpu_operations.linear_gelu_tanh(x, weight, given)
        before = x.double() @ weight.double().T + (0 if given is None else given.double())
        expected = torch.nn.functional.gelu(before, approximate="tanh")
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert out.dtype == dtype and out.shape == (2, 5, 32)
        torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
