"""Tests of weights from every place that may hold them, including diffusers' own folders of every structure."""
import json
import logging
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from common.errors import CheckpointError, UserError
from configuration.targets import instantiate_from_config
from engine.t5_files import check_t5_folder
from engine.text_encoder import FrozenT5Embedder
from tests.dit_models import build
from tests.dit_models import config as dit_config
from tests.released_structures import (
    STRUCTURES,
    assert_same,
    assert_same_vae,
    both_predictions,
    first_stage,
    model_config,
    random_vae,
    structure_of,
)
from tools.convert_weights import convert_to_diffusers, parts_of
from weights.checkpoint import NETWORK_PREFIX, save_checkpoint
from weights.diffusers_config import transformer_config, vae_config
from weights.diffusers_layout import to_diffusers, transformer_links
from weights.network import build_network, check_network, fitting_presets, load_network
from weights.shards import INDEX
from weights.sources import materialize

F32 = torch.float32


def redraw(model):
    """Redraw a diffusers model; its new norms are ones and zeros, which would hide exchanged weights."""
    torch.manual_seed(5)
    for name, value in model.state_dict().items():
        if value.dim() == 1:
            value.copy_(float("norm" in name and name.endswith("weight")) + 0.1 * torch.randn(value.shape))
        else:
            nn.init.normal_(value, std=value[0].numel() ** -0.5)
    return model.eval()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_diffusers_own_folder_computes_the_same_here(structure, diffusers, tmp_path):
    config = model_config(structure)["network_config"]
    other = redraw(diffusers.CogVideoXTransformer3DModel.from_config(transformer_config(config["params"])))
    other.save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    assert (tmp_path / "transformer" / INDEX).is_file()
    check_network(config, tmp_path)
    model = build_network(config, tmp_path, F32, "cpu").eval()
    mine, theirs = both_predictions(model, other, structure)
    assert mine.abs().mean() > 0.1
    assert_same(mine, theirs)
    (tmp_path / "alone").mkdir()
    for shard in (tmp_path / "transformer").glob("*.safetensors"):
        shard.rename(tmp_path / "alone" / shard.name.replace("diffusion_pytorch_model", "model"))
    alone = build_network(config, tmp_path / "alone", F32, "cpu").state_dict()
    assert all(torch.equal(alone[name], value) for name, value in model.state_dict().items()), "by their numbers alone"


@pytest.mark.slow
def test_diffusers_own_vae_computes_the_same_here(diffusers, tmp_path):
    config = first_stage()
    other = redraw(diffusers.AutoencoderKLCogVideoX.from_config(vae_config(model_config("5b"))))
    other.save_pretrained(tmp_path / "vae", max_shard_size="1MB")
    config["params"]["ckpt_path"] = str(tmp_path)
    vae = instantiate_from_config(config).eval()
    assert_same_vae(vae, other)
    again = vae.check_weights(str(tmp_path / "vae")).read()
    assert all(torch.equal(again[name], value) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("kind", ["pt", "old.pt", "safetensors", "theirs.safetensors", "folder"])
@pytest.mark.parametrize("structure", ["2b", "1.5_i2v"])
def test_every_kind_of_file_holds_the_same(structure, kind, tmp_path):
    model, config = build(**structure_of(structure)), model_config(structure)["network_config"]
    state, path = model.state_dict(), tmp_path / f"weights.{kind}"
    if kind == "theirs.safetensors":
        links = transformer_links(state, config["params"])
        save_file({k: v.contiguous() for k, v in to_diffusers(links, state)}, path)
    elif kind == "safetensors":
        save_file(state, path)
    elif kind == "folder":
        path = save_checkpoint(tmp_path, 3, {"module": {NETWORK_PREFIX + k: v for k, v in state.items()}}).parents[1]
    else:
        torch.save({"module": state}, path, _use_new_zipfile_serialization=kind == "pt")
    loaded = build_network(config, path, F32, "cpu").state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


def test_weights_land_in_the_dtype_asked_for(tmp_path):
    model, config = build(), model_config("5b")["network_config"]
    save_file({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "a.safetensors")
    loaded = build_network(config, tmp_path / "a.safetensors", torch.bfloat16, "cpu")
    assert all(torch.equal(v, model.state_dict()[k].half().bfloat16()) for k, v in loaded.state_dict().items())


def test_a_network_with_lora_takes_the_weights_under_it(tmp_path):
    lora = {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 2}}
    plain, with_lora = build(), build(extra_modules={"lora_config": lora}, seed=1)
    save_file(plain.state_dict(), tmp_path / "a.safetensors")
    matrices = {k: v.clone() for k, v in with_lora.state_dict().items() if "matrix" in k}
    load_network(with_lora, tmp_path / "a.safetensors")
    state = with_lora.state_dict()
    assert all(torch.equal(state[k], v) for k, v in matrices.items())
    anew = build_network(dit_config(extra_modules={"lora_config": lora}), tmp_path / "a.safetensors", F32, "cpu")
    for name, value in anew.state_dict().items():
        if "matrix" not in name:
            assert torch.equal(value, state[name])
        else:
            assert (value.count_nonzero() > 0) == ("matrix_A" in name) and value.abs().max() < 1
    assert all(torch.equal(state[k if k in state else k.replace(".weight", ".original.weight").replace(
        ".bias", ".original.bias")], v) for k, v in plain.state_dict().items())


@pytest.fixture
def pipeline(small_model, tmp_path):
    """The small model as a folder of a diffusers pipeline."""
    folder = tmp_path / "pipeline"
    parts = parts_of(OmegaConf.to_container(OmegaConf.load(small_model / "t2v.yaml").model))
    convert_to_diffusers(parts["transformer"], small_model / "t2v", folder / "transformer", shard_bytes=200_000)
    convert_to_diffusers(parts["vae"], small_model, folder / "vae")
    shutil.copytree(small_model / "t5", folder / "text_encoder", ignore=shutil.ignore_patterns("spiece.model"))
    (folder / "tokenizer").mkdir()
    shutil.copy(small_model / "t5" / "spiece.model", folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline"}))
    return folder


@pytest.fixture
def sample(small_model, tmp_path, capfd, caplog):
    """A function that runs sample_video.py with a configuration whose own files are missing.

    It returns the exit code, the messages and the videos.
    """
    from sample_video import main
    config = OmegaConf.load(small_model / "t2v.yaml")
    config.model.first_stage_config.params.ckpt_path = "nowhere/3d-vae.pt"
    config.model.conditioner_config.params.emb_models[0].params.model_dir = "nowhere/t5"
    OmegaConf.save(config, tmp_path / "elsewhere.yaml")
    (tmp_path / "prompts.txt").write_text("a red circle moves left\n")
    caplog.set_level(logging.INFO)

    def call(*words, base=tmp_path / "elsewhere.yaml"):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        code = main(["--base", str(base), "--input-file", str(tmp_path / "prompts.txt"),
                     "--output-dir", str(out), *words])
        return code, caplog.text + capfd.readouterr().err, [path.read_bytes() for path in out.rglob("*.mp4")]
    return call


@pytest.mark.slow
def test_a_pipeline_folder_is_a_whole_model(pipeline, sample, small_model):
    _, _, expected = sample(base=small_model / "t2v.yaml")
    code, said, videos = sample("--load", str(pipeline))
    assert code == 0 and videos == expected
    assert f"the autoencoder is loaded from {pipeline}, because nowhere/3d-vae.pt does not exist" in said


@pytest.mark.slow
def test_files_of_the_configuration_and_typed_ones_come_first(pipeline, sample, small_model):
    shutil.rmtree(pipeline / "vae")
    shutil.rmtree(pipeline / "text_encoder")
    assert sample("--load", str(pipeline), base=small_model / "t2v.yaml")[0] == 0
    code, said, _ = sample("--load", str(pipeline), "model.first_stage_config.params.ckpt_path=typo.pt",
                           f"model.conditioner_config.params.emb_models.0.params.model_dir={small_model}/t5")
    assert code == 2 and "typo.pt does not exist" in said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("lost, says", [
    ("transformer", "has no transformer/"), ("vae", "has no vae/"), ("text_encoder", "text_encoder has no config.json"),
    ("tokenizer", "tokenizer has no spiece.model"), ("transformer/config.json", "transformer has no config.json"),
    ("vae/config.json", "vae has no config.json"),
    ("transformer/*-00002-of-*.safetensors", "lacks diffusion_pytorch_model-00002-of-"),
    ("text_encoder/model.safetensors", "text_encoder has no weights"),
])
def test_a_folder_that_lacks_a_part_says_so(pipeline, sample, lost, says):
    path = next(pipeline.glob(lost))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, said, _ = sample("--load", str(pipeline))
    line = said.splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and says in line and "Traceback" not in said


def test_another_kind_of_model_is_named(pipeline, small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model.network_config
    with pytest.raises(CheckpointError, match="holds a AutoencoderKLCogVideoX"):
        check_network(config, pipeline / "vae")
    (pipeline / "transformer" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not the configuration of a model"):
        check_network(config, pipeline)


def test_a_folder_that_does_not_fit_names_its_preset(pipeline, small_model, monkeypatch):
    monkeypatch.setattr(fitting_presets, "__defaults__", (small_model,))
    config = OmegaConf.load(small_model / "t2v.yaml").model.network_config
    config.params.num_layers = 1
    with pytest.raises(CheckpointError, match=r"not in the model: .*t2v.yaml would fit it"):
        check_network(config, pipeline)


def test_an_autoencoder_that_does_not_fit_is_told_before_weights_are_read(pipeline, sample):
    code, said, _ = sample("--load", str(pipeline), "model.first_stage_config.params.decoder_config.params.ch=64")
    assert code == 2 and "shapes differ: decoder." in said.splitlines()[-1] and "model load" not in said


def test_text_encoders_keep_the_numbers_of_transformers(small_model, pipeline):
    from transformers import T5EncoderModel
    theirs = T5EncoderModel.from_pretrained(small_model / "t5").state_dict()
    for folder in (small_model / "t5", pipeline):
        mine = FrozenT5Embedder(str(folder)).transformer
        assert all(torch.equal(mine.state_dict()[k], v) for k, v in theirs.items())
        assert mine.encoder.embed_tokens.weight is mine.shared.weight


def test_a_whole_t5_is_taken_without_its_decoder(small_model, tmp_path):
    from safetensors.torch import load_file
    shutil.copytree(small_model / "t5", tmp_path / "t5")
    state = load_file(tmp_path / "t5" / "model.safetensors")
    save_file(state | {"decoder.final_layer_norm.weight": torch.ones(3), "lm_head.weight": torch.ones(2, 2)},
              tmp_path / "t5" / "model.safetensors")
    assert torch.equal(FrozenT5Embedder(str(tmp_path / "t5")).transformer.shared.weight, state["shared.weight"])
    save_file({k: v for k, v in state.items() if "layer.0" not in k}, tmp_path / "t5" / "model.safetensors")
    with pytest.raises(UserError, match="missing: encoder.block.0.layer.0"):
        FrozenT5Embedder(str(tmp_path / "t5"))
    assert check_t5_folder(str(tmp_path / "t5")).encoder == tmp_path / "t5"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["diffusers", "sat"])
def test_peak_memory_is_the_model_and_little_more(layout, tmp_path, peak_memory):
    config = model_config("5b")["network_config"]
    config["params"] |= {"hidden_size": 512, "num_attention_heads": 16, "num_layers": 8, "time_embed_dim": 128}
    OmegaConf.save(config, tmp_path / "network.yaml")
    with torch.device("meta"):
        model = instantiate_from_config(config)
    materialize(model, torch.bfloat16, "cpu")
    for value in model.state_dict().values():
        value.zero_()
    if layout == "sat":
        save_checkpoint(tmp_path, 1, {"module": {NETWORK_PREFIX + k: v for k, v in model.state_dict().items()}})
    else:
        write_diffusers(tmp_path, model, config)
    size = sum(p.nbytes for p in model.state_dict().values())
    assert 0.9 < peak_memory("load", tmp_path / "network.yaml", tmp_path) / size < 1.15


def write_diffusers(folder, model, config):
    state = model.state_dict()
    (folder / "transformer").mkdir(parents=True)
    tensors = dict(to_diffusers(transformer_links(state, config["params"]), state))
    save_file({k: v.contiguous() for k, v in tensors.items()},
              folder / "transformer" / "diffusion_pytorch_model.safetensors")
    (folder / "transformer" / "config.json").write_text(json.dumps(transformer_config(config["params"])))


@pytest.mark.parametrize("layout", ["ours", "theirs"])
@pytest.mark.parametrize("spelling", ["module.", "model.diffusion_model.module.", "_orig_mod.diffusion_model."])
def test_a_checkpoint_with_prefixes_and_other_parts_beside(layout, spelling, tmp_path, caplog):
    model, config = build(**structure_of("5b")), model_config("5b")["network_config"]
    state = model.state_dict()
    stored = dict(to_diffusers(transformer_links(state, config["params"]), state)) if layout == "theirs" else state
    vae = random_vae().state_dict()
    save_file({spelling + k: v.contiguous() for k, v in stored.items()}
              | {f"first_stage_model.{k}": v for k, v in vae.items()}
              | {"model_ema.decay": torch.tensor(0.9)}, tmp_path / "all.safetensors")
    with caplog.at_level(logging.INFO):
        loaded = build_network(config, tmp_path / "all.safetensors", F32, "cpu").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())
    assert f"prefix {spelling} removed; {len(vae) + 1} entries of other parts ignored" in caplog.text
    autoencoder = first_stage()
    autoencoder["params"]["ckpt_path"] = str(tmp_path / "all.safetensors")
    loaded = instantiate_from_config(autoencoder).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in vae.items())


def test_values_that_are_no_numbers_end_the_loading(tmp_path):
    state, config = build(**structure_of("5b")).state_dict(), model_config("5b")["network_config"]
    state["time_embed.0.weight"][3, 3] = float("nan")
    save_file(state, tmp_path / "a.safetensors")
    check_network(config, tmp_path / "a.safetensors")  # it reads no values
    with pytest.raises(CheckpointError, match="values in time_embed.0.weight are infinite or no numbers"):
        build_network(config, tmp_path / "a.safetensors", F32, "cpu")


@pytest.mark.parametrize("name", ["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight",
                                  "diffusion_model.transformer_blocks.0.attn1.to_q.lora_down.weight",
                                  "lora_unet_transformer_blocks_0_attn1_to_q.lora_up.weight"])
def test_a_lora_is_not_taken_for_a_model(name, tmp_path):
    save_file({name: torch.ones(2, 64)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="holds a LoRA alone; give it as args.load_lora"):
        check_network(model_config("5b")["network_config"], tmp_path / "lora.safetensors")


def test_sampling_with_a_random_autoencoder_is_refused(sample, small_model):
    code, said, videos = sample("model.first_stage_config.params.ckpt_path=null", base=small_model / "t2v.yaml")
    assert code == 2 and not videos and "model load" not in said
    assert "ckpt_path is null; an autoencoder with random weights decodes to noise" in said.splitlines()[-1]
