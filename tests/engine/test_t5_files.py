"""A text encoder is read in every arrangement of its files; tokenizers and weights that do not fit are told."""
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from engine.t5_files import check_t5_folder, t5_config, t5_parameters, t5_width
from engine.text_encoder import FrozenT5Embedder
from tests.random_model import TEXT_WIDTH

TEXTS = ["a red circle moves left", "blue", ""]
E4M3 = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def expected(small_model):
    return embedded(small_model / "t5")


@pytest.fixture
def t5(small_model, tmp_path):
    shutil.copytree(small_model / "t5", tmp_path / "t5")
    return tmp_path / "t5"


def embedded(path):
    with torch.no_grad():
        return FrozenT5Embedder(str(path), max_length=12)(TEXTS)


def tokenizer_json(folder):
    from transformers import T5Tokenizer
    T5Tokenizer.from_pretrained(folder).save_pretrained(folder.parent / "saved")
    shutil.copy(folder.parent / "saved" / "tokenizer.json", folder)
    (folder / "spiece.model").unlink()


def single_file(folder, name="t5xxl_fp16.safetensors", prefix="", change=None):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = {prefix + key: value for key, value in (change(state) if change else state).items()}
    save_file(state, folder / name)
    return folder / name


def test_a_tokenizer_in_one_json_file(t5, expected):
    tokenizer_json(t5)
    assert torch.equal(embedded(t5), expected)


@pytest.mark.parametrize("prefix", ["", "text_encoders.t5xxl.transformer.", "module."])
@pytest.mark.parametrize("given", ["file", "folder"])
def test_one_file_of_weights_without_a_configuration(prefix, given, t5, expected, caplog):
    file = single_file(t5, prefix=prefix, change=lambda s: s | {
        "decoder.final_layer_norm.weight": torch.ones(3), "spiece_model": torch.ones(4, dtype=torch.uint8)})
    (t5 / "config.json").unlink()
    folder = check_t5_folder(str(file if given == "file" else t5))
    assert t5_width(folder) == TEXT_WIDTH and t5_config(folder)["feed_forward_proj"] == "gated-gelu"
    with caplog.at_level(logging.INFO):
        assert torch.equal(embedded(file if given == "file" else t5), expected)
    assert "the text encoder's sizes are those of its tensors" in caplog.text
    assert t5_parameters(folder) > 1000


def test_the_tokenizer_may_be_in_a_folder_beside_the_file(t5, expected):
    file = single_file(t5)
    (t5 / "tokenizer").mkdir()
    shutil.move(t5 / "spiece.model", t5 / "tokenizer")
    assert torch.equal(embedded(file), expected)
    assert torch.equal(embedded(t5), expected)


@pytest.mark.parametrize("only", ["shared.weight", "encoder.embed_tokens.weight"])
def test_the_embedding_has_either_name(only, t5, expected):
    single_file(t5, change=lambda s: {k: v for k, v in s.items() if k not in (
        "shared.weight", "encoder.embed_tokens.weight")} | {only: s["shared.weight"]})
    assert torch.equal(embedded(t5), expected)


@pytest.mark.parametrize("variant", ["fp16.safetensors", "bin"])
def test_a_variant_or_torchs_file_alone(variant, t5, expected):
    state = load_file(t5 / "model.safetensors")
    (t5 / "model.safetensors").unlink()
    if variant == "bin":
        torch.save(state, t5 / "pytorch_model.bin")
    else:
        save_file(state, t5 / f"model.{variant}")
    assert torch.equal(embedded(t5), expected)


@pytest.mark.parametrize("scaled", [True, False])
def test_float8_is_the_product_with_its_scales_in_bfloat16(scaled, t5):
    state = load_file(t5 / "model.safetensors")
    scales = {k: v.abs().max() / 448 if scaled else torch.tensor(1.0) for k, v in state.items() if v.ndim == 2}
    small = {k: (v / scales[k]).to(E4M3) if k in scales else v for k, v in state.items()}
    extra = {k.removesuffix("weight") + "scale_weight": v for k, v in scales.items()} if scaled else {}
    (t5 / "model.safetensors").unlink()
    save_file(small | extra | ({"scaled_fp8": torch.empty(2, dtype=E4M3)} if scaled else {}),
              t5 / "t5xxl_fp8_e4m3fn.safetensors")
    loaded = FrozenT5Embedder(str(t5)).transformer.state_dict()
    for name, value in state.items():
        wanted = small[name].float() * scales[name] if name in scales else value
        assert loaded[name].dtype == torch.bfloat16 and torch.equal(loaded[name], wanted.bfloat16())


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("break_it, says", [
    (lambda f: (f / "spiece.model").write_bytes(b""), "spiece.model is an empty file"),
    (lambda f: (f / "spiece.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    (lambda f: (f / "spiece.model").write_bytes(b"<html>"), "spiece.model is an HTML page"),
    (lambda f: (f / "spiece.model").write_bytes((f / "spiece.model").read_bytes()[:499]), "damaged .*fetch it again"),
    (lambda f: (f / "spiece.model").write_bytes(b"\n"), "is damaged|knows no words"),
    (lambda f: (f / "spiece.model").unlink(), "has no spiece.model or tokenizer.json"),
    (lambda f: rewrite(f, vocab_size=50), "tokens up to number .* embeds 50; take the tokenizer of this text encoder"),
    (lambda f: rewrite(f, pad_token_id=5), "has pad token 0, but .* was trained with 5"),
    (lambda f: rewrite(f, model_type="umt5"), "configuration of another model than T5"),
    (lambda f: rewrite(f, d_model="wide"), "is not a T5 configuration"),
    (lambda f: rewrite(f, num_layers=-1), "is not a T5 configuration"),
    (lambda f: rewrite(f, num_layers=3), "missing: encoder.block.1"),
    (lambda f: (f / "config.json").write_text("[" * 10**5), "is not a T5 configuration"),
    (lambda f: (f / "model.safetensors").write_bytes(b"GGUF" + bytes(60)), "is a GGUF file"),
    (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    (lambda f: save_file({"encoder.down.0.weight": torch.ones(2)}, f / "model.safetensors")
     or (f / "config.json").unlink(), "does not hold the encoder of a T5"),
])
def test_what_does_not_fit_is_told(break_it, says, t5):
    break_it(t5)
    with pytest.raises(UserError, match=says) as error:
        FrozenT5Embedder(str(t5))
    assert "\n" not in str(error.value)
