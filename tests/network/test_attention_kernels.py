"""Tests of the choice of attention kernel: named, refused, or measured. A CPU has two, enough for all cases."""
import re
import sys
from importlib import metadata
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from common.errors import ConfigError
from configuration.model import FASTEST, KERNELS
from diffusion_video import DiffusionEngine
from network import attention_kernels
from network.attention_kernels import attention_shape, check_kernel, fastest, use_attention_kernel
from network.sage_attention import PACKAGE
from tests.random_model import TEXT_LENGTH, TEXT_WIDTH

CPU = torch.device("cpu")
HEADS = (2, 70, 16), torch.float32, CPU


@pytest.fixture(autouse=True)
def nothing_measured_before():
    fastest.cache_clear()


def ran_by(run) -> set[str]:
    """Return the kernels that attention ran by."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    names = {event.key for event in profile.key_averages()}
    return {kernel for kernel, name in (("flash", "aten::_scaled_dot_product_flash_attention_for_cpu"),
                                        ("math", "aten::_scaled_dot_product_attention_math")) if name in names}


def attend():
    x = torch.randn(1, *HEADS[0])
    return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_attention_runs_by_the_kernel_that_is_named(kernel):
    with use_attention_kernel(kernel, *HEADS):
        assert ran_by(attend) == {kernel}
    assert ran_by(attend) == {"flash"}, "afterwards torch chooses again"


@pytest.mark.parametrize("kernel", ["cudnn", "flash3", "flash4", "sage2"])
def test_a_kernel_that_is_not_there_is_refused(kernel):
    with pytest.raises(ConfigError, match=f"model.attention_kernel: {kernel} .* head dim 16 in float32 on cpu"):
        check_kernel(kernel, 16, torch.float32, CPU)
    check_kernel(FASTEST, 16, torch.float32, CPU)


def test_the_fastest_is_the_one_that_took_least_and_agrees(monkeypatch):
    seconds = {"flash": 2.0, "math": 1.0}
    monkeypatch.setattr(attention_kernels, "COMPARED", ("flash", "cudnn", "math"))  # a CPU has no cudnn

    def measured(run, device):
        (kernel,) = ran_by(run)
        return seconds[kernel]
    monkeypatch.setattr(attention_kernels, "_median_seconds", measured)
    assert fastest(*HEADS) == "math"
    seconds.clear()
    assert fastest(*HEADS) == "math", "measured once"


def test_a_fast_kernel_with_other_numbers_is_not_taken(monkeypatch):
    whole = F.scaled_dot_product_attention
    monkeypatch.setattr(attention_kernels, "COMPARED", ("flash", "math"))
    monkeypatch.setattr(attention_kernels, "_median_seconds", lambda run, device: float("math" not in ran_by(run)))
    assert fastest(*HEADS) == "math"

    def wrong(q, k, v):
        return whole(q, k, v) * (float("nan") if torch.backends.cuda.math_sdp_enabled() else 1)
    monkeypatch.setattr(F, "scaled_dot_product_attention", wrong)
    fastest.cache_clear()
    assert fastest(*HEADS) == "flash"
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: whole(q, k, v) * float("nan"))
    fastest.cache_clear()
    assert fastest(*HEADS) is None


def test_measuring_draws_nothing_from_the_global_generator(monkeypatch):
    monkeypatch.setattr(attention_kernels, "COMPARED", ("flash", "math"))
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    assert fastest(*HEADS) in ("flash", "math")
    assert torch.equal(torch.randn(3), expected)


def test_with_one_kernel_it_is_taken_and_with_none_torch_chooses(monkeypatch):
    assert fastest(*HEADS) == "flash"
    monkeypatch.setattr(attention_kernels, "COMPARED", ("cudnn",))
    fastest.cache_clear()
    with use_attention_kernel(FASTEST, *HEADS):
        assert ran_by(attend) == {"flash"}


def make_engine(small_model, **model):
    config = OmegaConf.merge(OmegaConf.load(small_model / "t2v.yaml").model, model)
    return DiffusionEngine(OmegaConf.create({"model_config": config, "fp16": False, "bf16": False, "device": "cpu"}))


@pytest.mark.slow
def test_an_engine_samples_and_inverts_by_its_kernel(small_model, monkeypatch):
    asked = []
    check = attention_kernels.check_kernel
    monkeypatch.setattr(attention_kernels, "check_kernel", lambda *given: asked.append(given) or check(*given))
    text = {"crossattn": torch.zeros(1, TEXT_LENGTH, TEXT_WIDTH)}
    by_math, by_choice = make_engine(small_model, attention_kernel="math"), make_engine(small_model)
    assert ran_by(lambda: by_math.sample(text, text, 1, (5, 4, 4, 4), num_steps=1)) == {"math"}
    assert ran_by(lambda: by_math.invert(torch.zeros(1, 5, 4, 4, 4), text, num_steps=3)) == {"math"}
    assert ran_by(lambda: by_choice.sample(text, text, 1, (5, 4, 4, 4), num_steps=1)) == {"flash"}
    assert set(asked) == {("math", 64, torch.float32, CPU)}


def test_the_shape_is_that_of_the_transformers_attention(small_model):
    network = OmegaConf.load(small_model / "t2v.yaml").model.network_config
    assert attention_shape(network, torch.zeros(1, 5, 4, 4, 6), TEXT_LENGTH) == (1, TEXT_LENGTH + 5 * 2 * 3, 64)


def test_a_misspelt_kernel_is_a_mistake_in_the_configuration(small_model):
    with pytest.raises(ConfigError, match=r"attention_kernel is 'cuddn'; it must be .*did you mean cudnn\?"):
        make_engine(small_model, attention_kernel="cuddn")
    assert FASTEST not in KERNELS


@pytest.fixture
def eight_bits(monkeypatch):
    """A stand-in for SageAttention, whose queries and keys are rounded to `levels` values on each side of zero."""
    module = ModuleType(PACKAGE)
    module.levels, module.calls, module.version = 127, [], "2.2.0"

    def sageattn(q, k, v, tensor_layout="NHD", is_causal=True):
        assert q.dtype == k.dtype == v.dtype and q.dtype in (torch.float16, torch.bfloat16)
        assert tensor_layout == "HND" and not is_causal
        module.calls.append(q.shape)
        q, k = (torch.round(x * module.levels / x.abs().max()) * x.abs().max() / module.levels for x in (q, k))
        return (torch.softmax(q.float() @ k.float().mT * q.shape[-1]**-0.5, dim=-1) @ v.float()).to(v.dtype)
    module.sageattn = sageattn
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: module.version if name == PACKAGE else version(name))
    attention_kernels._failure.cache_clear()
    attention_kernels._report_error.cache_clear()
    yield module
    attention_kernels._failure.cache_clear()


HALF = (2, 70, 16), torch.float16, CPU


@pytest.mark.parametrize("levels, taken", [(2047, True), (3, False)])
def test_a_lossy_kernel_is_the_fastest_only_if_its_error_counts_as_rounding(eight_bits, monkeypatch, caplog, levels,
                                                                            taken):
    eight_bits.levels = levels
    monkeypatch.setattr(attention_kernels, "COMPARED", ("flash", "sage2"))

    def measured(run, device):
        before = len(eight_bits.calls)
        run()
        return 1.0 if len(eight_bits.calls) > before else 2.0
    monkeypatch.setattr(attention_kernels, "_median_seconds", measured)
    with caplog.at_level("INFO"):
        assert fastest(*HALF) == ("sage2" if taken else "flash")
    assert ("attention by sage2 is not taken: it differs by" in caplog.text) != taken


def test_a_lossy_kernel_alone_is_compared_with_torchs_own_choice(eight_bits, monkeypatch):
    monkeypatch.setattr(attention_kernels, "COMPARED", ("cudnn", "sage2"))  # a CPU has no cudnn
    eight_bits.levels = 3
    assert fastest(*HALF) is None
    fastest.cache_clear()
    eight_bits.levels = 2047
    assert fastest(*HALF) == "sage2"


def test_a_lossy_kernel_that_is_named_is_taken_with_a_warning_of_its_error(eight_bits, caplog):
    x = attention_kernels._drawn((1, *HALF[0]), 7, torch.float16, CPU)
    exact = F.scaled_dot_product_attention(x, x, x)
    for _ in range(2):
        with use_attention_kernel("sage2", *HALF):
            lossy = F.scaled_dot_product_attention(x, x, x)
            masked = F.scaled_dot_product_attention(x, x, x, torch.zeros(70, 70, dtype=x.dtype))
    assert not torch.equal(lossy, exact) and torch.allclose(lossy, exact, atol=0.05)
    assert torch.allclose(masked, exact, atol=1e-3), "attention with a mask is torch's"
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert re.search(r"sage2 rounds to 8 bits; .* 70 tokens differs by 0\.0\d+ of its norm, more than", warning)


def test_a_compiled_layer_has_the_lossy_kernel_in_one_graph(eight_bits):
    x = attention_kernels._drawn((1, *HALF[0]), 7, torch.float16, CPU)
    compiled = torch.compile(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.0) + 1, backend="aot_eager",
                             fullgraph=True)
    with use_attention_kernel("sage2", *HALF):
        eight_bits.calls.clear()
        assert torch.equal(compiled(x), F.scaled_dot_product_attention(x, x, x) + 1) and len(eight_bits.calls) == 2
    compiled(x)
    assert len(eight_bits.calls) == 2, "afterwards torch chooses again"


def test_the_first_version_of_the_package_is_refused(eight_bits):
    eight_bits.version = "1.0.6"
    with pytest.raises(ConfigError, match=r"sage2 cannot .* \(sageattention 1\.0\.6 is installed, but version 2 "):
        check_kernel("sage2", *HALF[0][2:], *HALF[1:])


def test_a_package_that_refuses_the_device_is_one_line(eight_bits):
    def sageattn(q, k, v, **named):
        raise IndexError("list index out of range")
    eight_bits.sageattn = sageattn
    with pytest.raises(ConfigError, match=r"sage2 cannot .* head dim 16 .* \(list index out of range\)"):
        check_kernel("sage2", *HALF[0][2:], *HALF[1:])
