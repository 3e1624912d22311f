"""Texts that a text encoder does not take whole are told, with what is lost of them."""
import logging

from configuration.model import ModelConfig
from engine.conditioner import GeneralConditioner
from engine.t5_files import check_t5_folder
from engine.text_encoder import load_tokenizer
from engine.text_length import losses, report_captions, report_prompts

T5 = "sgm.modules.encoders.modules.FrozenT5Embedder"
TWELVE = "a red circle moves left and a red square moves left"  # words, of which each is one token but two


def conditioner_config(folder):
    return {"emb_models": [{"target": T5, "input_key": "txt", "params": {"model_dir": str(folder / "t5"),
                                                                        "max_length": 8}}]}


def test_what_is_cut_is_exactly_what_the_encoder_does_not_get(small_model):
    tokenizer = load_tokenizer(check_t5_folder(small_model / "t5"))
    whole = tokenizer(TWELVE)["input_ids"]
    for length in (len(whole) - 3, len(whole) - 1, len(whole), len(whole) + 1):
        taken = tokenizer(TWELVE, truncation=True, max_length=length)["input_ids"]
        (loss,) = losses(tokenizer, length, [TWELVE])
        assert (loss.tokens, loss.cut, loss.unknown) == (len(whole), len(whole) - len(taken), 0)
        assert TWELVE.endswith(loss.words) and bool(loss.words) == (length < len(whole))
    assert losses(tokenizer, 8, ["a 狗 circle"])[0].unknown == 1
    assert losses(tokenizer, 8, []) == []


def test_each_prompt_says_what_is_lost_of_it(small_model, caplog):
    conditioner = GeneralConditioner(**conditioner_config(small_model))
    with caplog.at_level(logging.WARNING):
        report_prompts(conditioner, [("prompt 0", "a red circle"), ("prompt 1", TWELVE), ("prompt 2", "a 狗 circle")])
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("prompt 1 has") and "than the text encoder takes (8); not used: " in first
    assert first.endswith("moves left")
    assert second.endswith("tokens, 1 of characters that the text encoder does not know")


def test_captions_are_counted(small_model, caplog):
    other = {"target": "torch.nn.Identity"}
    model = ModelConfig.read({**dict.fromkeys(("network_config", "denoiser_config", "first_stage_config"), other),
                              "conditioner_config": {"target": "sgm.modules.GeneralConditioner",
                                                     "params": conditioner_config(small_model)}})
    with caplog.at_level(logging.WARNING):
        report_captions(model, [(f"{name}.mp4", TWELVE) for name in "abcde"] + [("f.mp4", "a red circle")])
    (record,) = caplog.records
    assert record.getMessage().startswith("5 of 6 captions have more tokens than the text encoder takes (8)")
    assert "a.mp4 (" in record.getMessage() and record.getMessage().endswith(" and 2 more")
