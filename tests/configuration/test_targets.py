"""Tests of building objects from configurations: allowed targets, refused ones, and the error line."""
import importlib

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import ConfigError
from configuration import targets
from configuration.roles import ROLES
from configuration.targets import check_config, get_obj_from_str, instantiate_from_config


@pytest.mark.parametrize("path", [
    "os.system", "torch.os.system", "subprocess.Popen", "torch.utils.cpp_extension.subprocess.Popen",
    "torch.load", "torch.hub.load", "torch.storage.BytesIO", "builtins.eval", "eval", "pathlib.Path", "sgm.util.Path",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler", "sgm.util.check_config",
    "torch.utils.benchmark.Timer", "torch.utils.tensorboard.SummaryWriter", "torch._C.PyTorchFileWriter",
    "torch.distributed.FileStore", "torch.distributed.TCPStore", "torch.nn.Linear", "torch.nn.modules.linear.Linear",
    "transformers.TrainingArguments", "transformers.PretrainedConfig", "sat.training.model_io.save_checkpoint",
    "training.metrics.Log", "common.files.whole_file", "sgm.guiders.torch", "network.blocks.partial",
])
def test_only_classes_of_a_role_may_be_named(path):
    with pytest.raises(ConfigError, match=r"may not be named|does not resolve|not a dotted path"):
        get_obj_from_str(path)


def test_library_classes_and_released_paths_resolve():
    assert get_obj_from_str("torch.nn.Identity") is torch.nn.Identity
    new = get_obj_from_str("sgm.discretizer.EDMDiscretization")
    assert get_obj_from_str("sgm.modules.diffusionmodules.discretizer.EDMDiscretization") is new


@pytest.mark.parametrize("slot, target", [
    ("sampler_config", "sgm.guiders.VanillaCFG"), ("guider_config", "sgm.sampling.EulerEDMSampler"),
    ("regularizer_config", "vae_modules.losses.ReconstructionLoss"), ("network_config", "torch.nn.Identity"),
    ("discretization_config", "sgm.denoiser.Denoiser"), ("scaling_config", "sgm.denoiser_weighting.UnitWeighting")])
def test_a_slot_takes_its_own_role_alone(slot, target):
    with pytest.raises(ConfigError, match=rf"model\.{slot}: .* cannot be a {slot}, which needs "):
        check_config({slot: {"target": target}})


def test_the_command_line_adds_classes_to_a_role(monkeypatch, tmp_path):
    (tmp_path / "parts_of_a_stranger.py").write_text("from sgm.guiders import VanillaCFG\n\n\n"
                                                     "class Steady(VanillaCFG):\n    pass\n\n\n"
                                                     "class Other:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="may not be named"):
        get_obj_from_str("parts_of_a_stranger.Steady", "model.guider_config")
    monkeypatch.setattr(targets, "_opened", {"parts_of_a_stranger"})
    assert get_obj_from_str("parts_of_a_stranger.Steady", "model.guider_config").__name__ == "Steady"
    with pytest.raises(ConfigError, match="cannot be a guider_config"):
        get_obj_from_str("parts_of_a_stranger.Other", "model.guider_config")


@pytest.mark.parametrize("slot", ROLES)
def test_every_role_exists(slot):
    for name in ROLES[slot]:
        module, _, last = name.rpartition(".")
        if last[:1].isupper():
            assert isinstance(getattr(importlib.import_module(module), last), type)
        else:
            assert importlib.import_module(name)


def test_params_may_be_missing_and_extra_wins():
    assert isinstance(instantiate_from_config({"target": "torch.nn.Identity"}), torch.nn.Identity)
    config = OmegaConf.create({"target": "sgm.guiders.VanillaCFG", "params": {"scale": 2.0}})
    assert instantiate_from_config(config, scale=5.0).scale == 5.0
    with pytest.raises(ConfigError, match="scale missing"):
        instantiate_from_config({"target": "sgm.guiders.VanillaCFG", "params": {}})


def test_misspelt_parameter_is_named_with_its_place_and_the_nearest_right_one():
    config = {"discretization_config": {"target": "sgm.modules.diffusionmodules.discretizer.EDMDiscretization",
                                 "params": {"sigma_mim": 0.1}}}
    place = r"model\.discretization_config\.params\.sigma_mim"
    with pytest.raises(ConfigError, match=rf"{place}: .* did you mean sigma_min\?"):
        check_config(config)
    with pytest.raises(ConfigError, match=r"did you mean EDMDiscretization\?"):
        check_config({"target": "sgm.discretizer.EDMDiscretisation"})
    with pytest.raises(ConfigError, match=r"model\.parms: .* did you mean params\?"):
        check_config({"target": "torch.nn.Identity", "parms": {}})


def test_check_builds_nothing():
    check_config({"a": [{"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_min": 99.0}}], "b": {"c": 1}})


def test_a_value_that_a_class_refuses_is_a_mistake_of_the_configuration():
    with pytest.raises(ConfigError, match="ch is 30"):
        instantiate_from_config({"target": "vae_modules.cp_enc_dec.ContextParallelEncoder3D",
                                 "params": {"ch": 30, "z_channels": 4, "num_res_blocks": 1}})
