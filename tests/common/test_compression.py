"""An autoencoder's factors: lengths and sizes there and back, and read from a configuration."""
import pytest

from common.compression import COGVIDEOX, Compression


@pytest.mark.parametrize("frames, latents", [(1, 1), (5, 2), (49, 13), (81, 21)])
def test_the_first_frame_stands_alone(frames, latents):
    assert COGVIDEOX.latent_frames(frames) == latents and COGVIDEOX.video_frames(latents) == frames
    assert COGVIDEOX.has_length(frames) and not COGVIDEOX.has_length(frames + 1)


def test_sizes_there_and_back():
    assert COGVIDEOX.latent_size(480, 720) == (60, 90) and COGVIDEOX.video_size(60, 90) == (480, 720)
    assert COGVIDEOX.has_size(480, 720) and not COGVIDEOX.has_size(480, 724) and not COGVIDEOX.has_size(484, 720)
    assert not COGVIDEOX.has_length(0)


@pytest.mark.parametrize("decoder, expected", [
    ({"ch_mult": [1, 2, 2, 4], "temporal_compress_times": 4}, COGVIDEOX), ({}, COGVIDEOX), (None, COGVIDEOX),
    ({"ch_mult": [1, 2, 4], "temporal_compress_times": 2}, Compression(4, 2)),
    ({"ch_mult": [1, 2]}, Compression(2, 4)), ({"temporal_compress_times": 8}, Compression(8, 8))])
def test_factors_of_a_configuration(decoder, expected):
    assert Compression.of_first_stage({"params": {"decoder_config": {"params": decoder}}}) == expected
    assert Compression.of_first_stage({}) == COGVIDEOX
