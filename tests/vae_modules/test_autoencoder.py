from collections import deque

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.distributions import Normal, kl_divergence

from benchmarks.random_models import SIZES
from common.errors import CheckpointError, ConfigError
from configuration.targets import instantiate_from_config
from dry_run.meter import measure
from tests.vae_modules.small_vae import build, latent, video
from vae_modules import winograd
from vae_modules.autoencoder import decode_schedule
from vae_modules.convolution import CausalState
from vae_modules.losses import ReconstructionLoss
from vae_modules.norms import PlainNorm
from vae_modules.regularizers import DiagonalGaussian, DiagonalGaussianRegularizer
from vae_modules.tiling import Tiling


@pytest.fixture(scope="module")
def vae():
    return build().requires_grad_(False)


@pytest.mark.parametrize("frames, chunks", [
    (1, [1]), (3, [3]), (5, [3, 2]), (13, [3, 2, 2, 2, 2, 2]), (21, [3] + [2] * 9)])
def test_two_latents_a_chunk_the_remainder_joins_the_first(frames, chunks):
    assert decode_schedule(frames) == chunks


@pytest.mark.parametrize("frames", [-1, 0, 2, 12])
def test_an_even_count_of_latents_cannot_be_decoded(vae, frames):
    with pytest.raises(ValueError, match=f"{frames} latent frames"):
        decode_schedule(frames)


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_sizes_of_latents_and_frames(vae, frames):
    x = video(frames)
    z = vae.encode(x)
    assert z.shape == (1, 4, (frames - 1) // 4 + 1, 2, 3)
    assert vae.encode(x, unregularized=True).shape == (1, 8, *z.shape[2:])
    if z.shape[2] % 2:
        assert vae.decode(z).shape == x.shape


@pytest.mark.parametrize("frames, height", [(4, 16), (6, 16), (5, 12)])
def test_videos_that_do_not_divide_are_refused(vae, frames, height):
    with pytest.raises(ValueError, match="4 k \\+ 1 frames and sides in multiples of 8"):
        vae.encode(video(frames, height))


@torch.no_grad()
def test_other_factors_give_other_sizes():
    half = {"ch_mult": [1, 2], "temporal_compress_times": 2}
    vae, x = build(encoder=half, decoder=half), video(5, 12, 14)
    whole = vae.decode(vae.encode(x, unregularized=True)[:, :4])
    vae.tiling = Tiling((4, 4), 2)
    z = vae.encode(x)
    assert z.shape == (1, 4, 3, 6, 7) and whole.shape == vae.decode(z).shape == x.shape
    with pytest.raises(ValueError, match="2 k \\+ 1 frames and sides in multiples of 2"):
        vae.encode(video(4, 12, 14))


@pytest.mark.slow
@torch.no_grad()
def test_compiled_it_is_a_graph_for_the_first_chunk_and_one_for_all_others():
    vae, compiled, x, z = build(), CompileCounter(), video(17), latent(7)
    latents, frames, keys = vae.encode(x, unregularized=True), vae.decode(z), list(vae.state_dict())
    torch.compiler.reset()
    vae.compile_networks(compiled)
    torch.testing.assert_close(vae.decode(z), frames, atol=1e-4, rtol=1e-4)
    assert compiled.frame_count == 2
    torch.testing.assert_close(vae.encode(x, unregularized=True), latents, atol=1e-4, rtol=1e-4)
    assert compiled.frame_count == 3, "the encoder sees the clip as a whole"
    assert list(vae.state_dict()) == keys


def test_chunks_hand_on_their_state(vae):
    z, first = latent(7), CausalState()
    opening = vae.decoder(z[:, :, :3], first)
    second = CausalState(first.after)
    middle = vae.decoder(z[:, :, 3:5], second)
    closing = vae.decoder(z[:, :, 5:], CausalState(second.after))
    chunks = list(vae.decode_chunks(z))
    assert [chunk.shape[2] for chunk in chunks] == [9, 8, 8]
    torch.testing.assert_close(torch.cat([opening, middle, closing], 2), torch.cat(chunks, 2), rtol=0, atol=0)
    torch.testing.assert_close(vae.decode(z), torch.cat(chunks, 2), rtol=0, atol=0)
    again = vae.decoder(z[:, :, 3:5], CausalState(first.after))
    assert torch.equal(again, middle), "a state is not used up"
    assert not torch.equal(vae.decoder(z[:, :, 3:5])[:, :, -8:], middle), "the state matters"


@torch.no_grad()
def test_a_state_that_may_be_overwritten_takes_no_new_memory(vae):
    z, first = latent(7), CausalState()
    vae.decoder(z[:, :, :3], first)
    expected, second = vae.decoder(z[:, :, 3:5], CausalState(first.after)), CausalState(first.after, overwrites=True)
    assert torch.equal(vae.decoder(z[:, :, 3:5], second), expected)
    places = [[frames.data_ptr() for frames in past.after.values()] for past in (first, second)]
    assert places[0] == places[1]
    assert torch.equal(torch.cat(list(vae.decode_chunks(z)), 2)[:, :, 9:17], expected)


@pytest.mark.slow
def test_decoding_a_longer_video_needs_no_more_memory():
    with torch.device("meta"):
        vae, short, long = build().requires_grad_(False), *(torch.empty(1, 4, t, 4, 4) for t in (5, 13))
    cpu = torch.device("cpu")
    peaks = [measure(lambda z=z: deque(vae.decode_chunks(z), maxlen=0), cpu)[0] for z in (short, long)]
    assert peaks[0] > 0 and peaks[1] <= 1.05 * peaks[0]


@pytest.mark.slow
def test_a_full_size_video_is_decoded_in_what_memory_a_transformer_leaves_on_an_accelerator():
    """CogVideoX-5B in bfloat16: 20 GB in all, of which the transformer takes 11.2 GB."""
    size = SIZES["5b"]
    with torch.device("meta"):
        vae = instantiate_from_config(size.model()["first_stage_config"]).bfloat16().requires_grad_(False)
        z = torch.empty(1, 16, *size.decoded, dtype=torch.bfloat16)
    beside = measure(lambda: deque(vae.decode_chunks(z), maxlen=0), torch.device("cuda"))[0]
    assert beside + sum(weight.nbytes for weight in vae.parameters()) <= 8.8e9


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_every_layer_keeps_the_order_in_memory(dtype, transformed, monkeypatch):
    """A layer that lost it would cost copies in all layers after it, and change no result."""
    monkeypatch.setattr(winograd, "pays", lambda x, weight, leading: transformed and min(weight.shape[:2]) >= 16
                        and weight.shape[2:] == (3, 3, 3) and (leading or x.shape[2] > 1))
    model, lost = build(encoder={"ch": 32}, decoder={"ch": 32}).to(dtype), []
    model.encode_in_chunks = True
    for part in (model.encoder, model.decoder):
        for name, layer in part.named_modules():
            layer.register_forward_hook(
                lambda _, given, out, name=name: lost.append(name) if out.stride(1) > 1 else None)
    for batch in (1, 2):
        z = model.encode(video(17, batch=batch).to(dtype), sample_posterior=False)
        model.decode(z)
    assert not lost


@pytest.mark.parametrize("transformed", [False, True])
def test_results_written_over_their_inputs_are_those_of_memory_of_their_own(vae, transformed, monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda x, weight, leading: transformed and not torch.is_grad_enabled()
                        and min(weight.shape[:2]) >= 16 and weight.shape[2:] == (3, 3, 3))
    x, z = video(9, batch=2), torch.cat([latent(3), latent(3, seed=3)])
    kept_x, kept_z = x.clone(), z.clone()
    with torch.enable_grad():
        expected = vae.encode(x, unregularized=True), vae.decode(z)
    with torch.no_grad():
        for out, each in zip((vae.encode(x, unregularized=True), vae.decode(z)), expected, strict=True):
            torch.testing.assert_close(out, each, rtol=0, atol=1e-5 * float(each.abs().max()))
    assert torch.equal(x, kept_x) and torch.equal(z, kept_z), "what a caller gives stays as it is"


def test_frames_do_not_depend_on_later_chunks(vae):
    z, other = latent(7), latent(7)
    other[:, :, 5:] = 3
    a, b = vae.decode(z), vae.decode(other)
    assert torch.equal(a[:, :, :17], b[:, :, :17]) and not torch.equal(a[:, :, 17:], b[:, :, 17:])


def test_the_encoding_of_a_prefix_is_the_prefix_of_the_encoding(vae, monkeypatch):
    """This holds for all layers except the norms, whose statistics span the clip."""
    monkeypatch.setattr(PlainNorm, "forward", lambda self, f, zq, past, overwrites=False: f)
    x = video(9)
    whole = vae.encode(x, unregularized=True)
    torch.testing.assert_close(vae.encode(x[:, :, :5], unregularized=True), whole[:, :, :2])


def test_draws_and_means(vae):
    x = video(5)
    draws = [vae.encode(x, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    mean = vae.encode(x, sample_posterior=False)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(mean, vae.encode(x, unregularized=True).chunk(2, dim=1)[0])
    moments = torch.cat([mean, torch.zeros_like(mean)], dim=1)
    assert torch.equal(DiagonalGaussianRegularizer(sample=False)(moments)[0], mean)


def test_kl_from_the_standard_normal():
    moments = torch.randn(2, 8, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = DiagonalGaussian.from_moments(moments)
    std = (posterior.logvar / 2).exp()
    exact = kl_divergence(Normal(posterior.mean, std), Normal(torch.zeros_like(std), torch.ones_like(std)))
    torch.testing.assert_close(posterior.kl(), exact.flatten(1).sum(1))
    extreme = DiagonalGaussian.from_moments(torch.tensor([0.0, 1e4]).view(1, 2, 1, 1, 1))
    assert extreme.logvar.item() == 20 and torch.isfinite(extreme.kl()).all()


def test_reconstruction_loss():
    posterior = DiagonalGaussian(torch.full((2, 4, 1, 1, 1), 2.0), torch.zeros(2, 4, 1, 1, 1))
    x = torch.zeros(2, 3, 1, 2, 2)
    loss, terms = ReconstructionLoss(l1_weight=1, l2_weight=10, kl_weight=100)(x, x + 0.5, posterior)
    assert {name: value.item() for name, value in terms.items()} == {"l1": 0.5, "l2": 0.25, "edge": 0, "kl": 2.0}
    assert loss.item() == pytest.approx(0.5 + 2.5 + 200)


def test_gradients_reach_every_parameter():
    vae = build(loss=True).train()
    x = video(9)
    posterior = DiagonalGaussian.from_moments(vae.encode(x, unregularized=True))
    loss, _ = vae.loss(x, vae.decode(posterior.sample(torch.Generator().manual_seed(0))), posterior)
    loss.backward()
    without = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_weights_come_back_and_what_trained_them_is_left_out(vae, tmp_path):
    path = tmp_path / "3d-vae.pt"
    torch.save({"state_dict": vae.state_dict() | {"loss.perceptual.weight": torch.zeros(2)}}, path)
    other = build(seed=5, ckpt_path=str(path), ignore_keys=["loss"]).requires_grad_(False)
    x = video(5)
    assert torch.equal(other.encode(x, sample_posterior=False), vae.encode(x, sample_posterior=False))
    with pytest.raises(CheckpointError, match="not in the model: loss.perceptual.weight"):
        other.check_weights(str(path))


@pytest.mark.parametrize("encoder, message", [
    ({"ch": 18}, "ch is 18"), ({"attn_resolutions": [16]}, "no attention"),
    ({"temporal_compress_times": 3}, "temporal_compress_times is 3"), ({"temporal_compress_times": 16}, "below 2\\^4")])
def test_architectures_that_do_not_exist_are_refused(encoder, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        build(encoder=encoder)


def test_processes_that_are_not_there_are_asked_for():
    vae = build(cp_size=2)
    with pytest.raises(ConfigError, match="cp_size is 2, but 1 process"):
        vae.decode(latent(3))


def test_the_encoder_by_itself_gives_the_moments_of_a_whole_video():
    vae, x = build(), video()
    with torch.no_grad():
        assert torch.equal(vae.encoder(x), vae.encode(x, unregularized=True))
