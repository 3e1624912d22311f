"""Tests that guiders which are wrong on purpose fail the checks, each with a sentence that says why."""
import pytest

from benchmarks.check_sampler import checks_of
from configuration import targets
from tests.benchmarks import wrong_guiders as wrong


@pytest.mark.parametrize("cls, check, says", [
    (wrong.Nothing, "guidance changes the result", "next to nothing"),
    (wrong.Swapped, "near scale 1 it is near cond", "its second value"),
    (wrong.Swapped, "guidance leads towards cond", "away from"),
    (wrong.Backwards, "guidance leads towards cond", "(negative, positive)"),
    (wrong.Stronger, "near scale 1 it is near cond", "used as it is given"),
    (wrong.MutatesEstimates, "leaves estimates alone", "in place"),
    (wrong.DrawsNumbers, "seeds reproduce", "which the seed of a video does not decide"),
    (wrong.Faint, "guidance changes the result", "next to nothing"),
    (wrong.OneScale, "a scale for each row", "append_dims"),
    (wrong.Unbounded, "guidance within sigma_lo and sigma_hi", "super().scale_at"),
    (wrong.OneSided, "guidance within sigma_lo and sigma_hi", "sigma_lo < sigma / alpha"),
    (wrong.Proportional, "the scale is used as it is given", "not the scale"),
    (wrong.Plain, "rescale 1 keeps the deviation of cond", "leave `guide` to Guider"),
    (wrong.Stubborn, "the scale of a call is that of the parameters", "has to use its `scale`"),
    (wrong.SwappedOnce, "guidance leads towards cond", "a larger scale leads away"),
    (wrong.WithoutAlpha, "the same on VE, VP and flow levels", "alpha is missing"),
    (wrong.Half, "the precision of the estimates", "rounded further"),
    (wrong.Narrow, "the precision of the estimates", "leave the dtype"),
    (wrong.MixesMany, "a row does not depend on its neighbours", "over each row alone"),
    (wrong.Remembers, "a run does not depend on another beside it", "a guider's memory"),
    (wrong.Sometimes, "seeds reproduce", "a guider's memory"),
    (wrong.Idle, "strength changes the result", "strength is not used"),
    (wrong.BySigma, "guidance within sigma_lo and sigma_hi", "super().scale_at"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_guider_fails_and_says_why(monkeypatch, cls, check, says):
    monkeypatch.setattr(targets, "_opened", {wrong.__name__})
    found = dict(checks_of(f"{wrong.__name__}.{cls.__name__}", {"scale": 3.0}))[check]()
    assert not found.passed and says in found.remedy


@pytest.mark.parametrize("name, params", [
    ("VanillaCFG", {"scale": 0.5}),
    ("VanillaCFG", {"scale": 2.0, "dyn_thresh_config": {"target": "sgm.sampling_utils.StaticThresholding"}}),
    ("ControlCFG", {"scale": 3.0, "control_scale": 2.0}), ("APG", {"scale": 6.0, "momentum": -0.5}),
    ("SkipLayerGuidance", {"scale": 3.0, "cfg_scale": 4.0, "layers": [1]})], ids=str)
def test_those_that_are_right_pass(name, params):
    assert [check for check, run in checks_of(f"sgm.guiders.{name}", params, seed=4) if not run().passed] == []
