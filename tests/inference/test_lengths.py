"""Videos longer than trained: which way is taken, and what it changes in the configuration."""
import json
import logging

import pytest
from omegaconf import OmegaConf

from arguments import get_args
from common.errors import ConfigError
from common.files import REPOSITORY
from configuration.settings import SamplingSettings
from inference.lengths import prepare_length
from inference.sizes import model_limits
from sample_video import main

CONFIGS = REPOSITORY / "configs"
POSITIONS = "network_config.params.modules.pos_embed_config.params.riflex"


def prepared(name, frames, *words, **settings):
    """The model section after preparation, and what was said."""
    model = get_args(["--base", str(CONFIGS / f"{name}.yaml"), *words]).model_config
    told = prepare_length(model, model_limits(model), SamplingSettings(num_frames=frames, **settings))
    return model, told


def test_a_trained_length_changes_nothing():
    model, told = prepared("tiny_t2v", 17)
    assert told is None and OmegaConf.select(model, POSITIONS) is None and "time_windows" not in model


@pytest.mark.parametrize("name, frames, k, latents", [("tiny_t2v", 33, 1, 33), ("cogvideox_5b", 97, 2, 97),
                                                      ("cogvideox1.5_5b", 177, 3, 177)])
def test_up_to_twice_the_length_riflex_is_taken(name, frames, k, latents):
    model, told = prepared(name, frames)
    assert told.endswith(f"by RIFLEx, frequency {k}") and OmegaConf.select(model, POSITIONS) == {"k": k}
    assert model.network_config.params.num_frames == latents


@pytest.mark.parametrize("name, frames, settings, windows", [
    ("tiny_t2v", 41, {}, [5, 3]), ("tiny_t2v", 33, {"long_video": "windows"}, [5, 3]),
    ("cogvideox_2b", 97, {}, [13, 8]), ("cogvideox1.5_5b", 161 + 16, {"long_video": "windows"}, [42, 26])])
def test_beyond_it_or_if_asked_windows_are(name, frames, settings, windows):
    before = get_args(["--base", str(CONFIGS / f"{name}.yaml")]).model_config.network_config
    model, told = prepared(name, frames, **settings)
    assert list(model.time_windows) == windows and f"in windows of {windows[0]}" in told
    assert model.network_config == before, "each window has the trained length"


def test_what_the_configuration_says_is_kept():
    assert list(prepared("tiny_t2v", 33, "model.time_windows=[4, 1]")[0].time_windows) == [4, 1]
    given = "model.network_config.params.modules.pos_embed_config.params.riflex={k: 3}"
    assert OmegaConf.select(prepared("tiny_t2v", 33, given)[0], POSITIONS) == {"k": 3}
    model, told = prepared("tiny_t2v", 33, f"model.{POSITIONS}=false")
    assert "in windows" in told and OmegaConf.select(model, POSITIONS) is False


def test_noisy_videos_that_are_seen_as_a_whole_need_riflex():
    model, told = prepared("tiny_t2v", 33, "model.windows_below=2.6")
    assert list(model.time_windows) == [5, 3] and OmegaConf.select(model, POSITIONS) == {"k": 1}
    assert model.network_config.params.num_frames == 33
    assert told.endswith("share at least 3; where sigma / alpha is above 2.6, as a whole by RIFLEx, frequency 1")
    model, told = prepared("tiny_t2v", 17, "model.windows_below=2.6")
    assert told is None and OmegaConf.select(model, POSITIONS) is None and "time_windows" not in model


@pytest.mark.parametrize("name, frames, words", [
    ("cogvideox_2b", 97, []), ("tiny_t2v", 33, [f"model.{POSITIONS}=false"])])
def test_a_whole_video_that_the_positions_do_not_reach_is_refused(name, frames, words):
    with pytest.raises(ConfigError, match="model.windows_below: .* leave it out"):
        prepared(name, frames, "model.windows_below=2.6", *words)


@pytest.mark.parametrize("word", ["model.windows_below=2.6", "model.time_windows=[5,3]"])
def test_windows_beside_the_choice_of_riflex_are_refused(word):
    with pytest.raises(ConfigError, match=f"riflex, but {word.split('=')[0]} asks for windows; leave one of them out"):
        prepared("tiny_t2v", 33, word, long_video="riflex")


def test_windows_that_the_length_brings_are_refused_beside_a_step_cache():
    cache = "model.step_cache_config={target: network.step_cache.TeaCache, params: {threshold: 0.1}}"
    assert "by RIFLEx" in prepared("tiny_t2v", 33, cache)[1]
    with pytest.raises(ConfigError, match="in windows, and model.step_cache_config .* make the video shorter"):
        prepared("tiny_t2v", 41, cache)


@pytest.mark.parametrize("name, frames, settings, says", [
    ("tiny_t2v", 41, {"long_video": "riflex"}, "riflex up to 33 frames, windows up to 513 frames"),
    ("tiny_t2v", 34, {}, "the nearest is 33"), ("tiny_i2v", 33, {}, "only 8 k \\+ 1 up to 17"),
    ("cogvideox_2b", 97, {"long_video": "riflex"}, "only windows up to")])
def test_what_a_model_cannot_make_is_refused(name, frames, settings, says):
    with pytest.raises(ConfigError, match=says):
        prepared(name, frames, **settings)


@pytest.mark.parametrize("words, says", [
    (["model.step_cache_config={target: step_cache.TeaCache, params: {threshold: 1}}"], "model.step_cache_config"),
    (["model.time_windows=[9, 4]"], "a window of 9 latent frames is longer than the 5 that this model was trained"),
    (["model.time_windows=[5, 5]"], "not possible")])
def test_what_windows_do_not_go_with_is_refused_before_weights_are_read(words, says, capfd, tmp_path):
    (tmp_path / "p.txt").write_text("a red circle\n")
    assert main(["--base", str(CONFIGS / "tiny_t2v.yaml"), str(CONFIGS / "inference.yaml"), "--num-frames", "33",
                 "--long-video", "windows", "--input-file", str(tmp_path / "p.txt"), "--output-dir",
                 str(tmp_path / "out"), *words]) == 2
    assert says in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--long-video", "riflex"], ["--long-video", "windows"],
                                   ["model.windows_below=2.6"]])
def test_a_video_of_twice_the_length_is_made(words, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "p.txt").write_text("a red circle moves right on a black background\n")
    assert main(["--base", str(CONFIGS / "tiny_t2v.yaml"), str(CONFIGS / "inference.yaml"), "--num-frames", "33",
                 *words, "--input-file", str(tmp_path / "p.txt"), "--output-dir", str(tmp_path),
                 "model.sampler_config.params.num_steps=4"]) == 0
    [record] = [json.loads(path.read_text()) for path in tmp_path.rglob("metadata.json")]
    assert record["frames"] == 33 and any("longer than the 17" in message for message in caplog.messages)
