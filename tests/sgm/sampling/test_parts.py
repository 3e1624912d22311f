"""Tests of samplers that are given schedule and guider as objects, as Python does, or as configurations."""
from dataclasses import replace

import pytest
import torch

from common.errors import ConfigError
from configuration.targets import check_config, instantiate_from_config
from sgm.discretizer import EDMDiscretization, VPRampDiscretization
from sgm.guiders import APG, IdentityGuider
from sgm.sampling import EulerEDMSampler, UniPCSampler
from tests.sgm.problems import EDM, Gaussian, conditions, guider_config, unit_noise

OBJECTS = {"discretization": EDMDiscretization(**EDM["params"]), "guider": APG(scale=3.0)}


def test_objects_and_their_configurations_give_the_same():
    files = UniPCSampler(num_steps=5, discretization_config=EDM, guider_config=guider_config("APG", scale=3.0))
    written = UniPCSampler(num_steps=5, discretization=EDM, guider=guider_config("APG", scale=3.0))
    given = UniPCSampler(num_steps=5, **OBJECTS)
    results = [sampler(Gaussian(), unit_noise(), *conditions()) for sampler in (files, written, given)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    fewer = replace(given, num_steps=3)
    assert fewer.num_steps == 3 and fewer.discretization is OBJECTS["discretization"] and fewer.has_guider
    assert replace(files, num_steps=3).guider is files.guider


def test_what_is_not_given_is_known():
    bare = EulerEDMSampler(num_steps=3)
    assert not bare.has_guider and EulerEDMSampler(guider=IdentityGuider()).has_guider
    with pytest.raises(ConfigError, match="EulerEDMSampler has no schedule; give discretization"):
        bare(Gaussian(), unit_noise(), *conditions())


@pytest.mark.parametrize(("given", "says"), [
    ({"discretization": VPRampDiscretization}, "the class VPRampDiscretization; give an object"),
    ({"discretization": "VPRamp"}, "discretization is 'VPRamp'; it must be a Discretization"),
    ({"discretization": OBJECTS["guider"]}, "it must be a Discretization"),
    ({"guider": 3.0}, "guider is 3.0; it must be a Guider"),
    ({"guider": APG}, "the class APG"),
    ({**OBJECTS, "guider_config": guider_config(scale=3.0)}, "guider and guider_config are both given"),
])
def test_other_things_are_refused_in_one_line(given, says):
    with pytest.raises(ConfigError, match=says) as error:
        UniPCSampler(num_steps=5, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [instantiate_from_config, lambda config: check_config(config, "model.sampler_config")])
@pytest.mark.parametrize("value", [EDM, "EDM", 1])
def test_files_give_configurations_alone(read, value):
    with pytest.raises(ConfigError, match=r"params.discretization is .*only Python gives; write discretization_config"):
        read({"target": "sgm.sampling.UniPCSampler", "params": {"num_steps": 3, "discretization": value,
                                                                "discretization_config": EDM}})
    with pytest.raises(ConfigError, match="discretization_config"):
        instantiate_from_config({"target": "sgm.sampling.UniPCSampler", "params": {"num_steps": 3}})
