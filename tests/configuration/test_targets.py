"""Tests of building objects from configurations: allowed targets, refused ones, and the error line."""
import importlib
import inspect

import pytest
import torch
from omegaconf import OmegaConf

from arguments import get_args
from common.errors import ConfigError
from common.typed import _adapter, _annotations
from configuration import targets
from configuration.roles import ROLES
from configuration.targets import check_config, get_obj_from_str, instantiate_from_config
from tests.dit_models import config as network


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


@pytest.mark.parametrize("path", ["network.step_cache.StepCache", "sgm.sampling.base.Sampler",
                                  "sgm.discretizer.base.Discretization"])
def test_the_base_of_a_role_is_no_target(path):
    with pytest.raises(ConfigError, match=f"model.x: {path} is only the base of other classes; name one of them"):
        get_obj_from_str(path, "model.x")


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


def test_what_is_open_to_one_configuration_stays_closed_to_another(monkeypatch, tmp_path):
    (tmp_path / "their_guider.py").write_text("from sgm.guiders import IdentityGuider\n\n\n"
                                              "class Theirs(IdentityGuider):\n    pass\n")
    monkeypatch.setattr(targets, "_opened_to_some", set())
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--base", "configs/tiny_t2v.yaml", "configs/inference.yaml",
             "model.sampler_config.params.guider_config={target: their_guider.Theirs}"]
    get_args([*words, "--allow-targets", "their_guider", "sgm"])
    with pytest.raises(ConfigError, match="guider_config: their_guider.Theirs may not be named; it is open to another"):
        get_args(words)
    with pytest.raises(ConfigError, match="model: their_guider.Theirs may not be named; it is open to another"):
        get_args([*words[:3], "model.network_wrapper=their_guider.Theirs"])
    get_args([*words, "--allow-targets", "their_guider"])
    monkeypatch.setattr(targets, "_opened", {"their_guider"})
    get_args(words)


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


NETWORK = "model.network_config.params"


@pytest.mark.parametrize("place, value, says", [
    ("network_config.params.num_layers", -1, f"{NETWORK}.num_layers is -1; it must be a whole number above 0"),
    ("network_config.params.num_frames", 0, f"{NETWORK}.num_frames is 0; it must be a whole number above 0"),
    ("network_config.params.latent_height", "abc", f"{NETWORK}.latent_height is 'abc'; it must be a whole number"),
    ("network_config.params.transformer_args.hidden_dropout", 1.0, f"{NETWORK}.transformer_args.hidden_dropout is 1.0"),
    ("network_config.params.transformer_args.hidden_droput", 0, "did you mean hidden_dropout"),
    ("network_config.params.modules.lora_confg", {}, "did you mean lora_config"),
    ("network_config.params.modules.pos_embed_config.params.text_length", [], "text_length is []; it must be"),
    ("first_stage_config.params.ignore_keys", 3, "ignore_keys is 3; it must be a list of texts"),
    ("first_stage_config.params.cp_size", "abc", "cp_size is 'abc'; it must be a whole number above 0"),
    ("first_stage_config.params.encoder_config.params.double_z", "abc", "double_z is 'abc'; it must be true or false"),
    ("first_stage_config.params.encoder_config.params.ch_mult", [], "ch_mult is []"),
    ("conditioner_config.params.emb_models", 3, "emb_models is 3; it must be a list of mappings"),
    ("conditioner_config.params.emb_models.0.ucg_rate", 2, "emb_models[0].ucg_rate is 2; it must be a number from"),
    ("denoiser_config.params.discretization_config.params.shift_scale", float("nan"), "shift_scale is nan"),
    ("denoiser_config.params.discretization_config", {}, "discretization_config: no target given"),
    ("sampler_config.params.guider_config.params.num_steps", 0, "guider_config.params.num_steps is 0"),
    ("sampler_config.params.num_steps", 10**9, "num_steps is 1000000000; it must be a whole number"),
    ("sampler_config.params", [1], "params: must be a mapping")])
def test_every_parameter_is_checked_against_its_annotation(small_model, place, value, says):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    OmegaConf.update(config, place, value, merge=False, force_add=True)
    with pytest.raises(ConfigError) as error:
        check_config(config)
    assert says in str(error.value)


def test_whole_numbers_with_a_point_become_whole(small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    config.network_config.params.num_layers = 2.0
    config.first_stage_config.params.encoder_config.params.ch_mult = [1.0, 1.0, 1.0, 1.0]
    found = check_config(config)
    assert repr(found["network_config"]["params"]["num_layers"]) == "2"
    assert repr(found["first_stage_config"]["params"]["encoder_config"]["params"]["ch_mult"]) == "[1, 1, 1, 1]"


def test_what_follows_from_the_whole_network_is_not_set_in_a_part():
    part = {"target": "dit_video_concat.FinalLayerMixin", "params": {"hidden_size": 7}}
    with pytest.raises(ConfigError, match="final_layer_config.params.hidden_size is 7, but .* makes it 64"):
        instantiate_from_config(network(extra_modules={"final_layer_config": part}))


@pytest.mark.parametrize("slot", ROLES)
def test_every_parameter_of_every_class_has_an_annotation_that_is_checked(slot):
    """A parameter without one would be accepted whatever it is."""
    for cls in classes_of(ROLES[slot]):
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                assert name in _annotations(cls) and _adapter(_annotations(cls)[name]) is not None, (cls, name)


def classes_of(role):
    for name in role:
        module, _, base = name.rpartition(".")
        if base[:1].isupper():
            yield from family(getattr(importlib.import_module(module), base))
        else:
            found = vars(importlib.import_module(name)).values()
            yield from (cls for cls in found if isinstance(cls, type) and cls.__module__ == name
                        and not issubclass(cls, tuple))


def family(cls):
    yield cls
    for child in cls.__subclasses__():
        if not child.__module__.startswith("tests"):
            yield from family(child)
