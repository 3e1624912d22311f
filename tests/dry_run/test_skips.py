"""The skips that a plan tells are those of the run."""
import json
import logging

import pytest

from common.files import REPOSITORY
from dry_run.skips import told
from sample_video import main

CACHE = "model.step_cache_config={target: network.published_teacache.PublishedTeaCache, params: {threshold: 0.4, " \
        "polynomial: [1, 0]}}"


@pytest.mark.slow
def test_the_plan_knows_what_the_run_skips(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    words = ["--base", str(REPOSITORY / "configs/tiny_t2v.yaml"), str(REPOSITORY / "configs/inference.yaml"), CACHE,
             "model.sampler_config.params.num_steps=12", "--input-file", str(tmp_path / "prompts.txt"),
             "--output-dir", str(tmp_path / "out"), "model.sampler_config.params.guider_config.params.scale=1"]
    assert main([*words, "--plan"]) == 0
    [line] = [line for line in caplog.messages if line.startswith("step cache: ")]
    assert main(words) == 0
    [record] = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("metadata.json")]
    assert 0 < record["passes_skipped"] < 1
    assert line.startswith(f"step cache: {round(12 * record['passes_skipped'])} of 12 forward passes skip")


def test_without_weights_the_plan_says_so(caplog):
    caplog.set_level(logging.INFO)
    words = ["--base", str(REPOSITORY / "configs/tiny_t2v.yaml"), CACHE, "--load", "nowhere", "--plan"]
    assert main(words) == 0
    assert "step cache: known when sampling" in caplog.messages


def test_skips_are_told_in_ranges():
    assert told([False, True, False, True, True, True, False]) == "4 of 7 forward passes skip their layers: 2, 4-6"
    assert told([False, False]) == "none of 2 forward passes skips its layers"
