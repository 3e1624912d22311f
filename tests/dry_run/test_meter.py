"""Tests of the meter, which counts memory and operations without running the code."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.memory_measure import tensor_peak
from benchmarks.random_models import SIZES
from benchmarks.setting import Setting
from benchmarks.training_step import Side, drawn
from common import cpu_operations
from common.cpu_operations import convolution
from dry_run import meter
from dry_run.work import Work
from network.cpu_attention import attention_on_cpu

META, CPU = torch.device("meta"), torch.device("cpu")


def measure(call, device=META):
    return meter.measure(call, device)


def test_tensors_count_while_they_are_alive():
    x = torch.empty(1000, device=META)

    def call():
        a = x + 1  # 4 kB
        b = a * 2  # 8 kB
        del a
        c = b.double()  # 12 kB
        return c.view(10, 100).t()

    peak, work = measure(call)
    assert peak == 12_000 and work.flops == 0 and work.calls == 3 and work.cached == 8_000 + 8_000 + 12_000
    assert measure(lambda: [x + 1 for _ in range(3)])[0] == 12_000
    assert measure(lambda: [None for _ in map(lambda i: x + i, range(3))])[0] == 8_000  # the last tensor and the next


def test_weights_inputs_views_and_changes_in_place_are_not_new():
    x, layer = torch.empty(8, 16, device=META), nn.Linear(16, 16, bias=False, device=META)
    assert measure(lambda: (x.t(), x[1:].add_(1), layer.weight.view(-1)))[0] == 0
    assert measure(lambda: layer(x)) == (8 * 16 * 4, Work(products=2 * 8 * 16 * 16, calls=1))
    assert measure(lambda: x.t().view(16, 8)[1]) == (0, Work())


def test_attention_never_holds_the_scores():
    q = torch.empty(2, 4, 1000, 32, device=META)
    peak, work = measure(lambda: F.scaled_dot_product_attention(q, q, q))
    assert (peak, work.attention) == (q.nbytes, 4 * 2 * 4 * 1000 * 1000 * 32)


def test_real_tensors_are_computed_and_count():
    x, q, frames = torch.zeros(16, 16), torch.ones(1, 2, 16, 32), torch.ones(1, 2, 16, 32)
    with torch.no_grad(), meter.Meter(CPU) as found:
        x.t()[1:].add_(1)
        F.scaled_dot_product_attention(q, q, q)
        convolution(frames, torch.ones(5, 2, 3, 3), None, (1, 1))
    assert x.sum() == 15 * 16 and found.work.cached == 2 * 15 * 16 * 4 + 5 * 2 * 9 * 4
    assert found.work.attention == 4 * 2 * 16 * 16 * 32 and found.work.convolutions == 2 * 5 * 2 * 9 * 16 * 32
    with torch.no_grad(), meter.Meter(CPU) as found:
        attention_on_cpu(*(3 * [q.bfloat16()]))
    assert found.work.attention == 4 * 2 * 16 * 16 * 32


@pytest.mark.parametrize("device, dtype, instructions, scratch", [
    (META, torch.bfloat16, False, 1), (CPU, torch.float32, False, 1), (CPU, torch.bfloat16, True, 1),
    (CPU, torch.bfloat16, False, 27)])
def test_a_convolution_holds_its_input_as_its_kernel_wants_it(monkeypatch, device, dtype, instructions, scratch):
    monkeypatch.setattr(cpu_operations, "CPU_HAS_BFLOAT16", instructions)
    conv = nn.Conv3d(8, 16, 3, padding=1, device=META, dtype=dtype)
    x = torch.empty(1, 8, 40, 10, 10, device=META, dtype=dtype)
    peak, work = measure(lambda: conv(x), device)
    assert peak == 2 * x.nbytes + scratch * x.nbytes
    assert work.convolutions == 2 * x.numel() * 27 * 16


def test_a_decoder_keeps_two_frames_of_each_convolution_between_chunks():
    from tests.vae_modules.small_vae import build
    vae = build().to(META)

    def held(latents):
        """Return the peak of bytes over the chunks."""
        chunks = vae.decode_chunks(torch.empty(1, 4, latents, 16, 16, device=META))
        return measure(lambda: [None for _ in chunks])[0]

    assert held(13) == held(5) < 1.5 * held(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_a_training_pass_is_counted_as_the_allocator_counts_it(again, dtype):
    """More than weights and their gradients: 2 clips of 610 tokens, in 3 layers of 128 channels."""
    size, side = replace(SIZES["tiny"], latent=(6, 16, 16, 16)), Side(dtype, again)
    size = replace(size, network={**size.network, "num_layers": 3, "latent_height": 16, "latent_width": 16,
                                  "num_frames": 21})
    setting = Setting(size, CPU, dtype)
    training, batch = side.built(setting), drawn(setting, 2)
    training(batch).backward()  # the first pass may measure the processor, with tensors of its own
    training.zero_grad(set_to_none=True)
    taken = tensor_peak(lambda: training(batch).backward(), CPU)
    weights = sum(p.nbytes for p in training.parameters())
    assert taken > (1.5 if again else 3) * weights
    assert side.planned(size, 2, CPU) == pytest.approx(taken, rel=0.05)


@pytest.mark.parametrize("clips", [1, 2])
def test_a_training_pass_of_an_autoencoder_too(clips):
    """One small clip is unfolded by its convolutions, which takes most of the memory; two are not."""
    from tests.vae_modules.small_vae import config
    from vae_modules.autoencoder import VideoAutoencodingEngine
    from vae_modules.losses import reconstruction_loss
    vae, video = VideoAutoencodingEngine(**config(loss=True)).train(), torch.zeros(clips, 3, 9, 32, 32)
    taken = tensor_peak(lambda: reconstruction_loss(vae, video, torch.Generator())[0].backward(), CPU)
    vae, video = vae.to(META), video.to(META)
    planned = meter.measure_training(lambda: reconstruction_loss(vae, video, torch.Generator())[0], vae, CPU)[1]
    assert planned == pytest.approx(taken, rel=0.05)
