"""Tests of forms from the classes' own declarations."""
import math

import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from cogvideo.studio import forms
from cogvideo.studio.forms import CHOICE, FLAG, GUIDER, NUMBER, SAMPLER, SCHEDULE, TEXT, WHOLE, Field, part_of
from common.errors import ConfigError
from configuration.targets import instantiate_from_config

ROLES = (SAMPLER, SCHEDULE, GUIDER)


def field(role, cls, name):
    return next(one for one in forms.fields_of(forms.class_named(role, cls)) if one.name == name)


def test_kinds_defaults_and_bounds_are_those_of_the_declaration():
    assert field(GUIDER, "APG", "scale") == Field("scale", NUMBER, None, required=True)
    assert field(GUIDER, "APG", "rescale") == Field("rescale", NUMBER, 0.0, low=0.0, high=1.0)
    assert field(GUIDER, "APG", "sigma_hi").kind == TEXT
    assert field(SCHEDULE, "ZeroSNRDDPMDiscretization", "keep_start") == Field("keep_start", FLAG, False)
    spacing = field(SCHEDULE, "VPDiscretization", "spacing")
    assert spacing.kind == CHOICE and spacing.default in spacing.choices
    assert field(SAMPLER, "UniPCSampler", "order") == Field("order", WHOLE, 2, low=0.0)


@pytest.mark.parametrize("role", ROLES)
def test_every_class_can_be_filled_in_and_has_help(role):
    for name, cls in forms.classes(role).items():
        assert forms.help_of(cls), name
        values = {one.name: one.shown(one.default) for one in forms.fields_of(cls)}
        needed = {"scale": 0.5, "layers": "[0]", "sigmas": "[3, 2, 1]", "linear_start": 0.001, "linear_end": 0.01,
                  "num_timesteps": 1000, "ckpt_path": "a", "network_config": "{}"}
        values |= {one.name: needed[one.name] for one in forms.fields_of(cls) if one.required}
        part = part_of(role, name, values)
        given = {one.name for one in forms.fields_of(cls) if one.required}
        assert set(part["params"]) == given, "what is the default is left out"
        if "ckpt_path" not in values and role != SAMPLER:  # a sampler has its schedule and guider inside
            assert type(instantiate_from_config(part)) is cls


@pytest.mark.parametrize("given, says", [
    (("Popen", {}), "'Popen' is none of"), (("__class__", {}), "is none of"), ((None, {}), "is none of"),
    (("APG", {}), "APG: scale is missing"), (("APG", {"scale": 1, "sigma_lo": "[1, "}), "not written as in YAML"),
    (("os.system", {}), "is none of")])
def test_what_is_not_offered_or_missing_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        part_of(GUIDER, *given)


def test_a_configured_part_becomes_the_form_and_the_form_the_part():
    part = {"target": "sgm.modules.diffusionmodules.guiders.DynamicCFG",
            "params": {"scale": 6, "exp": 5, "num_steps": 50, "sigma_hi": 2.5}}
    name, values = forms.configured(GUIDER, part)
    assert (name, values) == ("DynamicCFG", {"scale": 6, "exp": 5, "sigma_hi": 2.5})
    shown = {one.name: one.shown(values.get(one.name, one.default)) for one in forms.fields_of(
        forms.class_named(GUIDER, name))}
    assert part_of(GUIDER, name, shown) == {"target": "sgm.guiders.DynamicCFG", "params": {"scale": 6, "sigma_hi": 2.5}}


def test_infinity_is_written_as_in_yaml():
    limit = field(SAMPLER, "EulerEDMSampler", "s_tmax")
    assert limit.default == math.inf and limit.shown(math.inf) == ".inf" and limit.value(".inf") == math.inf
