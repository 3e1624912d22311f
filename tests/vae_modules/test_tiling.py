"""Tests of tiles in space and chunks in time: what stays equal, and what the norms change."""
import pytest
import torch

from common.errors import ConfigError
from configuration.settings import AutoencoderSettings
from engine.first_stage import make_tiling
from tests.vae_modules.small_vae import PARAMS, build, video
from vae_modules.autoencoder import encode_schedule
from vae_modules.norms import PlainNorm
from vae_modules.tiling import Tiling, by_tiles


@pytest.fixture
def vae():
    return build().requires_grad_(False)


def latent(frames=3, height=8, width=10):
    return torch.randn(1, PARAMS["z_channels"], frames, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("tiling, rows, columns", [
    (Tiling((32, 48), 4), [(0, 32), (28, 60)], [(0, 48), (42, 90)]),
    (Tiling((60, 90), 0), [(0, 60)], [(0, 90)]),
    (Tiling((99, 99), 9), [(0, 60)], [(0, 90)]),
    (Tiling((20, 30), 0), [(0, 20), (20, 40), (40, 60)], [(0, 30), (30, 60), (60, 90)]),
])
def test_tiles_are_as_few_as_can_be_and_cover_the_video(tiling, rows, columns):
    assert [[(s.start, s.stop) for s in spans] for spans in tiling.spans(60, 90)] == [rows, columns]


@pytest.mark.parametrize("size, overlap", [((4, 4), 4), ((4, 4), -1), ((4,), 0), ((0, 4), 0)])
def test_tiles_that_cannot_be_are_refused(size, overlap):
    with pytest.raises(ConfigError, match="args.vae_tile_size"):
        Tiling(size, overlap)


@pytest.mark.parametrize("changes", [{"vae_tile_size": [8, 8]}, {"vae_tile_overlap": 1}])
def test_tiles_of_a_video_that_is_not_tiled_are_refused(changes):
    with pytest.raises(ConfigError, match="has an effect only with args.vae_tiling"):
        make_tiling(AutoencoderSettings(**changes))
    assert make_tiling(AutoencoderSettings()) is None
    assert make_tiling(AutoencoderSettings(vae_tiling=True, **changes)) is not None


@pytest.mark.parametrize("overlap", [0, 1, 3, 4])
def test_shares_sum_to_one(overlap):
    ones = torch.ones(2, 13, 17, dtype=torch.float64)
    enlarged = by_tiles(lambda tile: tile.repeat_interleave(8, -1).repeat_interleave(8, -2), ones,
                        Tiling((5, 5), overlap), out=8)
    torch.testing.assert_close(enlarged, torch.ones(2, 104, 136, dtype=torch.float64))


def test_one_tile_fades_into_the_next():
    numbers = iter([0.0, 1.0])
    seam = by_tiles(lambda tile: torch.full_like(tile, next(numbers)), torch.empty(1, 10), Tiling((1, 7), 0))
    assert seam.tolist() == [[0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1]], "the last tile ends with the video"


@pytest.mark.slow
def test_one_tile_is_the_whole_bit_for_bit(vae):
    z, x = latent(), video(9, 64, 80)
    frames, mean = list(vae.decode_chunks(z)), vae.encode(x, sample_posterior=False)
    vae.tiling = Tiling((8, 10), 2)
    tiled = list(vae.decode_chunks(z))
    assert [f.shape for f in tiled] == [f.shape for f in frames]
    assert torch.equal(torch.cat(tiled, 2), torch.cat(frames, 2))
    assert torch.equal(vae.encode(x, sample_posterior=False), mean)


def test_every_tile_goes_through_time_with_its_own_state(vae):
    """Without overlap, each tile of the result equals the tile decoded alone."""
    z = latent(frames=5)
    alone = vae.decode(z[..., 4:, 5:])
    vae.tiling = Tiling((4, 5), 0)
    (frames,) = vae.decode_chunks(z)
    assert frames.shape == (1, 3, 17, 64, 80)
    torch.testing.assert_close(frames[..., 32:, 40:], alone, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_without_norms_tiles_with_enough_overlap_are_the_whole_inside(vae, monkeypatch):
    """The only difference is at the edges of tiles, and vanishes away from them."""
    monkeypatch.setattr(PlainNorm, "forward", lambda self, f, zq, past, overwrites=False: f)
    x = video(5, 64, 1024)
    whole = vae.encode(x, unregularized=True)
    vae.tiling = Tiling((24, 72), 16)
    tiled = vae.encode(x, unregularized=True)
    error = (tiled - whole).abs().amax(dim=(0, 1, 2, 3)) / whole.std()
    assert error[:48].max() < 1e-3 and error[80:].max() < 1e-3
    assert error[48:80].max() < 1, "nor is there a seam between"


@pytest.mark.parametrize("frames, chunks", [
    (1, [1]), (5, [5]), (9, [9]), (13, [13]), (17, [9, 8]), (49, [9] + [8] * 5)])
def test_eight_frames_a_chunk_the_remainder_joins_the_first(frames, chunks):
    assert encode_schedule(frames) == chunks


def test_chunks_of_the_encoder_hand_on_their_state(vae, monkeypatch):
    """All layers except the norms, whose statistics span their input, give the same as on the whole clip."""
    x = video(25)
    whole = vae.encode(x, unregularized=True)
    vae.encode_in_chunks = True
    assert not torch.allclose(vae.encode(x, unregularized=True), whole)
    monkeypatch.setattr(PlainNorm, "forward", lambda self, f, zq, past, overwrites=False: f)
    chunked = vae.encode(x, unregularized=True)
    vae.encode_in_chunks = False
    torch.testing.assert_close(chunked, vae.encode(x, unregularized=True))
