"""Tests that training accepts the fine-tuning presets over the models' own, without weights or clips."""
import json
import re

import pytest
import torch

from arguments import get_args
from common.files import REPOSITORY
from configuration.model import ModelConfig
from configuration.targets import instantiate_from_config
from data_video import clip_forms_of
from dry_run.training import FILLING, estimate_training
from tests.configs.test_presets import PRESETS, RELEASED
from tests.configs.test_presets import network as preset_network
from train_video import check_settings, configure
from training.optimization import OPTIMIZERS
from weights.lora_names import is_matrix, matrix_names, without_lora

KINDS = ("lora", "sft")
RUNS = [(name, kind) for name in PRESETS for kind in KINDS]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A folder that passes for the released text encoder as long as its weights are not read."""
    folder = tmp_path_factory.mktemp("t5")
    (folder / "config.json").write_text(json.dumps({"d_model": 4096}))
    for name in ("spiece.model", "model.safetensors"):
        (folder / name).write_bytes(b"\n")
    return folder


@pytest.fixture
def arguments(t5, tmp_path):
    def read(name, kind):
        return get_args(["--base", f"configs/{name}.yaml", f"configs/{name}_{kind}.yaml", "args.load=null",
                         f"args.save={tmp_path}", "model.first_stage_config.params.ckpt_path=null",
                         f"model.conditioner_config.params.emb_models.0.params.model_dir={t5}"])
    return read


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", RUNS)
def test_training_accepts_it_and_its_network_is_the_models(name, kind, arguments):
    args = arguments(name, kind)
    check_settings(args)
    with torch.device("meta"):
        network = instantiate_from_config(args.model_config.network_config)
    state = network.state_dict()
    layers = RELEASED[name][1]
    assert list(filter(is_matrix, state)) == (list(matrix_names(range(layers))) if kind == "lora" else [])
    assert {k: v.shape for k, v in without_lora(state).items()} == {
        k: v.shape for k, v in preset_network(name).state_dict().items()}
    assert list(args.model_config.get("not_trainable_prefixes", [])) == (["all"] if kind == "lora" else [])
    assert network.transformer.checkpoint_activations


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", RUNS)
def test_clips_and_precision_are_the_models(name, kind, arguments):
    args = arguments(name, kind)
    plain = get_args(["--base", f"configs/{name}.yaml"])
    data, deepspeed = args.data_config.params, args.deepspeed_config
    newer = "1.5" in name
    assert (list(data.video_size), data.fps, data.max_num_frames) == (
        list(plain.sampling.sampling_image_size), plain.sampling.sampling_fps, 81 if newer else 49)
    assert (deepspeed.fp16.enabled, deepspeed.bf16.enabled) == (plain.run.fp16, plain.run.bf16)
    assert deepspeed.optimizer.type in OPTIMIZERS


def test_deepspeed_knows_its_section():
    from deepspeed.runtime.config import DeepSpeedConfig
    from omegaconf import OmegaConf
    for name, kind in RUNS:
        section = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs" / f"{name}_{kind}.yaml").deepspeed)
        assert DeepSpeedConfig(section).zero_config.stage == 2


@pytest.mark.parametrize("name, kind", RUNS)
def test_header_tells_command_estimate_and_folders(name, kind):
    text = (REPOSITORY / "configs" / f"{name}_{kind}.yaml").read_text(encoding="utf-8")
    header = " ".join(text[:text.index("args:")].replace("#", "").split())
    for needed in ("train_video.py", f"--base configs/{name}.yaml configs/{name}_{kind}.yaml", "GB",
                   "counted by --plan and not measured", "estimated and not measured", f"checkpoints/{name}/",
                   "vae/3d-vae.pt", "t5/", "labels/NAME.txt", f"runs/{name}_{kind}"):
        assert needed in header


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", [("cogvideox_2b", "lora"), ("cogvideox_5b", "sft")])
def test_header_tells_the_memory_that_the_plan_counts(name, kind, monkeypatch):
    text = (REPOSITORY / "configs" / f"{name}_{kind}.yaml").read_text(encoding="utf-8")
    told = re.search(r"not measured: (\S+) GB on .*?; first (\d+) GB", text.replace("\n# ", " "))
    monkeypatch.setenv("WORLD_SIZE", "8" if "each of 8" in text else "1")
    args = get_args(["--base", f"configs/{name}.yaml", f"configs/{name}_{kind}.yaml"])
    configure(args)
    args.run.device = torch.device("meta")  # any accelerator: on a CPU some buffers take no memory
    needed = estimate_training(args, ModelConfig.read(args.model_config), clip_forms_of(args.data_config.params)[0])
    counted = dict(needed.phases)
    assert counted.pop(FILLING) / 1e9 == pytest.approx(float(told[2]), rel=0.03)
    assert max(counted.values()) / 1e9 == pytest.approx(float(told[1]), rel=0.03)
