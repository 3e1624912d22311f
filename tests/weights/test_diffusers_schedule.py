"""Tests of the comparison of a folder's noise schedule with a configuration's."""
import json

import pytest

from weights.diffusers_schedule import schedule_doubts

DISCRETIZATION = {"params": {"shift_scale": 1.0, "spacing": "trailing"}}
OURS = {"sampler_config": {"params": {"discretization_config": DISCRETIZATION}}}


@pytest.mark.parametrize("content, doubts", [
    ({"snr_shift_scale": 1.0, "timestep_spacing": "trailing"}, []), ({"prediction_type": "v_prediction"}, []),
    ({"snr_shift_scale": 3.0, "timestep_spacing": "trailing"}, ["has snr_shift_scale 3.0, and discretization_config"]),
    ({"snr_shift_scale": 3.0, "timestep_spacing": "linspace"}, ["snr_shift_scale 3.0", "the sampler spacing trailing"]),
    (["no", "mapping"], [])])
def test_what_the_folder_states_otherwise_is_told(tmp_path, content, doubts):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))
    found = schedule_doubts(tmp_path, OURS)
    assert len(found) == len(doubts) and all(part in told for part, told in zip(doubts, found, strict=True))
    assert not schedule_doubts(tmp_path, {"sampler_config": {"params": {}}}), "released steps are not diffusers'"


def test_a_folder_without_a_schedule_is_no_doubt(tmp_path):
    assert schedule_doubts(tmp_path, OURS) == []
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_bytes(b"\xff{")
    assert schedule_doubts(tmp_path, OURS) == []
