"""Tests of building objects from configurations: allowed targets, refused ones, and the error line."""
import pytest
import torch
from omegaconf import OmegaConf

from common.errors import ConfigError
from configuration.targets import check_config, get_obj_from_str, instantiate_from_config


@pytest.mark.parametrize("path", [
    "os.system", "torch.os.system", "subprocess.Popen", "torch.utils.cpp_extension.subprocess.Popen",
    "torch.load", "torch.hub.load", "torch.storage.BytesIO", "builtins.eval", "eval", "pathlib.Path", "sgm.util.Path",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler", "sgm.util.check_config",
])
def test_only_classes_of_known_projects_may_be_named(path):
    with pytest.raises(ConfigError, match=r"may not be named|does not resolve|not a dotted path"):
        get_obj_from_str(path)


def test_library_classes_and_released_paths_resolve():
    assert get_obj_from_str("torch.nn.Identity") is torch.nn.Identity
    assert get_obj_from_str("transformers.PretrainedConfig").__module__.startswith("transformers.")
    new = get_obj_from_str("sgm.discretizer.EDMDiscretization")
    assert get_obj_from_str("sgm.modules.diffusionmodules.discretizer.EDMDiscretization") is new


def test_params_may_be_missing_and_extra_wins():
    assert isinstance(instantiate_from_config({"target": "torch.nn.Identity"}), torch.nn.Identity)
    config = OmegaConf.create({"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}})
    assert instantiate_from_config(config, out_features=5).out_features == 5
    with pytest.raises(ConfigError, match="out_features missing"):
        instantiate_from_config({"target": "torch.nn.Linear", "params": {"in_features": 2}})


def test_misspelt_parameter_is_named_with_its_place_and_the_nearest_right_one():
    config = {"sampler_config": {"target": "sgm.modules.diffusionmodules.discretizer.EDMDiscretization",
                                 "params": {"sigma_mim": 0.1}}}
    with pytest.raises(ConfigError, match=r"model\.sampler_config\.params\.sigma_mim: .* did you mean sigma_min\?"):
        check_config(config)
    with pytest.raises(ConfigError, match=r"did you mean EDMDiscretization\?"):
        check_config({"target": "sgm.discretizer.EDMDiscretisation"})
    with pytest.raises(ConfigError, match=r"model\.parms: .* did you mean params\?"):
        check_config({"target": "torch.nn.Identity", "parms": {}})


def test_check_builds_nothing():
    check_config({"a": [{"target": "torch.nn.Linear", "params": {"in_features": -1}}], "b": {"c": 1}})


def test_a_value_that_a_class_refuses_is_a_mistake_of_the_configuration():
    with pytest.raises(ConfigError, match="ch is 30"):
        instantiate_from_config({"target": "vae_modules.cp_enc_dec.ContextParallelEncoder3D",
                                 "params": {"ch": 30, "z_channels": 4, "num_res_blocks": 1}})
