"""Tests of the conditioning: two halves that fit each other, rows, and a warning where guidance could do nothing."""
import pytest
import torch

from common.errors import ConfigError
from sgm.conditioning import Conditioning
from sgm.guiders import PerturbedAttentionGuidance, VanillaCFG
from sgm.sampling.guided import Guided
from tests.sgm.problems import EDM, Gaussian, conditions, guider_config, sampler_of, unit_noise

TEXT = torch.arange(12.0).reshape(2, 3, 2)


def test_shared_inputs_and_changes_reach_both_halves():
    both = Conditioning({"crossattn": TEXT}, {"crossattn": TEXT * 0}).shared(concat=torch.ones(2, 1))
    assert both.rows == 2 and both.half(True).keys() == both.half(False).keys() == {"crossattn", "concat"}
    row = both.each(lambda given: given[1:])
    assert row.rows == 1 and torch.equal(row.cond["crossattn"], TEXT[1:])
    stacked = Conditioning.stacked([row, both.to(torch.float64).each(lambda given: given[:1])])
    assert stacked.rows == 2 and torch.equal(stacked.cond["crossattn"], TEXT.flip(0).double())
    assert both.unguided().uncond is None and Conditioning.stacked([both.unguided()]).uncond is None


def test_equal_unconditional_halves_are_kept_once():
    first, zero = Conditioning({"crossattn": TEXT}, {"crossattn": TEXT * 0}), {"crossattn": TEXT * 0}
    assert Conditioning({"crossattn": TEXT + 1}, zero).sharing(first).uncond is first.uncond
    for other in (None, first.unguided(), Conditioning({"crossattn": TEXT}, {"crossattn": TEXT})):
        assert Conditioning({"crossattn": TEXT + 1}, zero).sharing(other).uncond is zero
    assert first.unguided().sharing(first).uncond is None


@pytest.mark.parametrize(("wrong", "says"), [
    (lambda: Conditioning({"crossattn": TEXT}, {"concat": TEXT}), "crossattn.*concat.*differ"),
    (lambda: Conditioning({"crossattn": TEXT}, {"crossattn": TEXT[:1]}), r"\(2, 3, 2\), its unconditional half \(1, 3"),
    (lambda: Conditioning({"crossattn": [[1.0]]}), "crossattn is list; it must be a tensor"),
    (lambda: Conditioning(TEXT), "a mapping of names to tensors, not Tensor"),
    (lambda: Conditioning({"crossattn": TEXT, "concat": TEXT[:1]}).rows, "one row for each video"),
    (lambda: Conditioning.of(Conditioning({"crossattn": TEXT}), {"crossattn": TEXT}), "leave uc out"),
    (lambda: Conditioning({"crossattn": TEXT}).half(unconditional=True), "no unconditional half"),
    (lambda: Conditioning.stacked([Conditioning({"crossattn": TEXT}, {"crossattn": TEXT * 0}),
                                   Conditioning({"crossattn": TEXT})]), "to all or none"),
])
def test_halves_that_do_not_fit_are_refused_in_one_line(wrong, says):
    with pytest.raises(ConfigError, match=says) as error:
        wrong()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("guider", "scale", "warned"), [
    (VanillaCFG(scale=3.0), None, True), (VanillaCFG(scale=3.0), 1, False), (VanillaCFG(scale=1.0), None, False),
    (VanillaCFG(scale=1.0), 2.0, True), (PerturbedAttentionGuidance(scale=3.0, layers=[0]), None, False)])
def test_a_half_equal_to_the_conditional_one_is_warned_of_where_it_guides(caplog, guider, scale, warned):
    both = Conditioning({"crossattn": TEXT}, {"crossattn": torch.cat([TEXT[:1], TEXT[1:] * 0])})
    Guided(lambda *given: None, guider, both, scale, {}).warn_without_effect()
    assert ("guidance has no effect on 1 of 2 video(s)" in caplog.text) == warned
    Guided(lambda *given: None, guider, both.unguided(), scale, {}).warn_without_effect()
    assert len(caplog.records) == warned


def test_every_run_looks_for_it(caplog):
    cond, _ = conditions()
    sampler_of("EulerEDMSampler", EDM, 2, guider_config(scale=3.0))(Gaussian(), unit_noise(), cond, uc=cond)
    assert "guidance has no effect" in caplog.text
