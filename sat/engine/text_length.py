"""Texts that a text encoder does not take whole: how many tokens it leaves out, and which it does not know."""
import logging
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from common.listing import listed
from configuration.model import ModelConfig
from engine.t5_files import check_t5_folder
from engine.text_encoder import FrozenT5Embedder, load_tokenizer, t5_configs, t5_folder

logger = logging.getLogger(__name__)

SHOWN = 80  # characters of what is lost


@dataclass(frozen=True)
class Loss:
    """The tokens of a text that do not reach the network's understanding.

    Of `tokens`, with the one that ends a text, the last ones are `cut`, which read `words`; `unknown` of the others
    stand for characters that the vocabulary lacks.
    """

    tokens: int
    cut: int
    words: str
    unknown: int


def losses(tokenizer: Any, max_length: int, texts: Sequence[str]) -> list[Loss]:
    """Return what an encoder of `max_length` tokens loses of each text."""
    found = []
    for tokens in tokenizer(list(texts))["input_ids"] if texts else ():
        taken, lost = tokens[:max_length - 1], tokens[max_length - 1:-1]  # the last one of either ends the text
        words = tokenizer.decode(lost, skip_special_tokens=True)
        found.append(Loss(len(tokens), len(lost), words, taken.count(tokenizer.unk_token_id)))
    return found


def report_prompts(conditioner: nn.Module, prompts: Iterable[tuple[str, str]]) -> None:
    """Log, for each of the named prompts (name, text), what the conditioner's text encoders lose of it."""
    named = list(prompts)
    for embedder in conditioner.modules():
        if isinstance(embedder, FrozenT5Embedder):
            texts = [text for _, text in named]
            for (name, _), loss in zip(named, losses(embedder.tokenizer, embedder.max_length, texts), strict=True):
                _report_prompt(name, loss, embedder.max_length)


def _report_prompt(name: str, loss: Loss, max_length: int) -> None:
    if loss.cut:
        logger.warning("%s has %d tokens, %d more than the text encoder takes (%d); not used: %s", name, loss.tokens,
                       loss.cut, max_length, textwrap.shorten(loss.words, SHOWN, placeholder=" …"))
    if loss.unknown:
        logger.warning("%s has %d tokens, %d of characters that the text encoder does not know", name, loss.tokens,
                       loss.unknown)


def report_captions(model: ModelConfig, captions: Sequence[tuple[str, str]]) -> None:
    """Log how many of the named captions (name, text) the model's text encoders cut, or do not know all words of.

    Reads the tokenizers, and not the encoders. Raises ConfigError if a text encoder is missing.
    """
    for params in t5_configs(model):
        tokenizer = load_tokenizer(check_t5_folder(**t5_folder(params)))
        max_length = params.get("max_length", FrozenT5Embedder.MAX_LENGTH)
        found = list(zip(captions, losses(tokenizer, max_length, [text for _, text in captions]), strict=True))
        _report_count(f"have more tokens than the text encoder takes ({max_length}); their ends are not used",
                      [f"{name} ({loss.tokens})" for (name, _), loss in found if loss.cut], len(found))
        _report_count("have characters that the text encoder does not know",
                      [f"{name} ({loss.unknown} of {loss.tokens} tokens)" for (name, _), loss in found if loss.unknown],
                      len(found))


def _report_count(what: str, names: Sequence[str], of: int) -> None:
    if names:
        logger.warning("%d of %d captions %s: %s", len(names), of, what, listed(names))
