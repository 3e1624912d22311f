"""Tests of the memory of kernels: what is remembered is what the kernel itself would return."""
import pytest
import torch

from dry_run.kernels import Kernels

aten = torch.ops.aten


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def counted():
    """Return kernels whose cost is how often a kernel was really run before."""
    runs = []
    return Kernels(lambda *call: len(runs) if runs.append(1) is None else 0), runs


def described(out):
    return [(x.shape, x.stride(), x.dtype, x.device.type, x.untyped_storage().nbytes())
            for x in (out if isinstance(out, tuple) else (out,))]


@pytest.mark.parametrize("func, args, kwargs", [
    (aten.add.Tensor, lambda: (meta(4, 3), meta(3)), {}),
    (aten.add.Tensor, lambda: (meta(4, 3).t(), meta(4)), {"alpha": 2}),
    (aten.mul.Scalar, lambda: (meta(4, dtype=torch.int64), 1.0), {}),
    (aten.mm.default, lambda: (meta(4, 3), meta(3, 5)), {}),
    (aten.native_layer_norm.default, lambda: (meta(2, 6), [6], None, None, 1e-5), {}),
    (aten.cat.default, lambda: ([meta(1, 3), meta(2, 3)],), {}),
    (aten._to_copy.default, lambda: (meta(4, 3),), {"dtype": torch.bfloat16})])
def test_a_second_call_is_not_run_and_has_the_same_shapes_in_memory_of_its_own(func, args, kwargs):
    kernels, runs = counted()
    (first, cost), (again, same) = kernels.run(func, args(), kwargs), kernels.run(func, args(), kwargs)
    assert len(runs) == 1 and cost == same
    assert described(first) == described(again) == described(func(*args(), **kwargs))
    one, other = (out[0] if isinstance(out, tuple) else out for out in (first, again))
    assert one.untyped_storage()._cdata != other.untyped_storage()._cdata


def test_arguments_that_are_equal_but_of_another_type_have_results_of_their_own():
    kernels, _ = counted()
    x = meta(4, dtype=torch.int64)
    assert [kernels.run(aten.mul.Scalar, (x, number), {})[0].dtype for number in (1, 1.0, True)] == [
        torch.int64, torch.float32, torch.int64]


def test_what_is_written_into_an_argument_is_that_argument():
    kernels, runs = counted()
    for _ in range(2):
        x, out = meta(4, 3), meta(4, 3)
        assert kernels.run(aten.mul_.Scalar, (x, 2.0), {})[0] is x
        assert kernels.run(aten.add.out, (x, x), {"out": out})[0] is out
    assert len(runs) == 2


def test_an_argument_that_is_resized_is_resized_each_time():
    kernels, runs = counted()
    for count in (1, 2):
        out = meta(0)
        kernels.run(aten.add.out, (meta(4, 3), meta(4, 3)), {"out": out})
        assert out.shape == (4, 3) and len(runs) == count


def test_views_and_tensors_with_values_always_run():
    kernels, runs = counted()
    x, mask = meta(4, 3), torch.tensor([True, False, True])
    for _ in range(2):
        assert kernels.run(aten.t.default, (x,), {})[0].untyped_storage()._cdata == x.untyped_storage()._cdata
        assert kernels.run(aten.nonzero.default, (mask,), {})[0].shape == (2, 1)
    assert len(runs) == 4


def test_tensors_of_other_classes_stay_of_their_class():
    class Quantized(torch.Tensor):
        pass

    kernels, runs = counted()
    for count in (1, 2):
        out, _ = kernels.run(aten.clone.default, (meta(4, 3).as_subclass(Quantized),), {})
        assert out.shape == (4, 3) and len(runs) == count
