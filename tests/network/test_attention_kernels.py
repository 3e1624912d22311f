"""Tests of the choice of attention kernel: named, refused, or measured. A CPU has two, enough for all cases."""
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from common.errors import ConfigError
from configuration.model import FASTEST, KERNELS
from diffusion_video import DiffusionEngine
from network import attention_kernels
from network.attention_kernels import attention_shape, check_kernel, fastest, use_attention_kernel
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


@pytest.mark.parametrize("kernel", ["cudnn", "flash3", "flash4"])
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
