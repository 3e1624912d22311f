"""Text embeddings of a prompt file, written without loading anything but the text encoder, and their later use."""
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import console
from common.errors import ConfigError, DataError
from common.files import check_writable
from common.ranks import world_size
from common.tensors import dtype_name
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from engine.checks import check_text_encoder
from engine.stored_text import TextFile, describe_encoder, only_t5, stored_file, use_text_file, write_text_file
from engine.text_length import report_prompts
from inference.checks import check_negative_prompt, source_of_prompts
from inference.jobs import Job
from inference.prompts import Prompt, read_prompts
from memory.offload import offload_conditioner
from memory.quantization import check_quantization, quantize_linears

logger = logging.getLogger(__name__)

READ, WRITE = "--text-embeddings", "--save-text-embeddings"


def prepare_text_embeddings(args: Arguments) -> None:
    """Let the run use the text embeddings of a file, if it asks for that, in place of the text encoder.

    Raises ConfigError for settings that exclude each other, and as `engine.stored_text.use_text_file` does.
    """
    settings = args.sampling
    read, write = settings.text_embeddings, settings.save_text_embeddings
    if read is None and write is None:
        return
    if read is not None and write is not None:
        raise ConfigError(f"{READ} reads text embeddings and {WRITE} writes them; give one of the two")
    if settings.input_type == "latents":
        raise ConfigError(f"args.input_type is latents, which need no prompts; leave {READ if read else WRITE} out")
    if write is not None and (settings.input_type == "cli" or world_size() > 1):
        raise ConfigError(f"{WRITE} encodes the prompts of a file (args.input_type txt) in one process, without "
                          "torchrun")
    if read is None:
        return
    use_text_file(args.model_config, read)
    if args.memory.quantize_t5 is not None:
        logger.warning("args.quantize_t5 has no effect: no text encoder is loaded with %s", READ)


def check_stored(jobs: Iterable[Job], args: Arguments) -> None:
    """Raise DataError if the run uses stored text embeddings and those of a prompt are missing or not finite."""
    stored = stored_file(ModelConfig.read(args.model_config))
    if stored is None:
        return
    stored.check(texts_of((job.prompt for job in jobs), args.sampling.negative_prompt))
    dtype = dtype_name(args.run.dtype)
    if stored.encoder["dtype"] != dtype:
        logger.warning("%s was made in %s and this run computes in %s: its videos differ by rounding from those of a "
                       "run with the text encoder", stored.path, stored.encoder["dtype"], dtype)


def texts_of(prompts: Iterable[Prompt], negative_prompt: str | None) -> list[str]:
    """Return the texts that a run encodes, each once."""
    prompts = list(prompts)
    negative = [negative_prompt, *(prompt.negative for prompt in prompts)]
    return list(dict.fromkeys([*(prompt.text for prompt in prompts), *(text for text in negative if text is not None)]))


def lacking_texts(stored: TextFile, args: Arguments) -> list[str]:
    """Return the texts of a run that a file has no embeddings of; none if its prompts are typed, or cannot be read."""
    settings = args.sampling
    if settings.input_type != "txt":
        return []
    try:
        prompts = read_prompts(settings.input_file, source_of_prompts(settings, args.model_config))
    except DataError:
        return []  # which the run will report
    return stored.missing(texts_of(prompts, settings.negative_prompt))


def check_encoding(args: Arguments) -> Path:
    """Return the file to write, after checking it and the text encoder; nothing is read but small files.

    Raises ConfigError, CheckpointError or DataError.
    """
    assert args.sampling.save_text_embeddings is not None
    only_t5(args.model_config)
    check_text_encoder(args.model_config)
    check_negative_prompt(args.sampling.negative_prompt)
    check_quantization(args.memory, args.run.device)
    path = Path(args.sampling.save_text_embeddings)
    if path.exists():
        try:
            TextFile.read(path)
        except DataError as error:
            raise DataError(f"{path} exists and holds no text embeddings; name another file with {WRITE}") from error
    check_writable(path.parent, WRITE)
    return path


def kept_embeddings(path: Path, args: Arguments) -> dict[str, Tensor]:
    """Return the text embeddings, by text, that a resumed run keeps of the file it is to write.

    None if another text encoder, dtype or quantization made them; otherwise all that are sound.
    """
    if not args.sampling.resume or not path.exists():
        return {}
    stored = TextFile.read(path)
    if stored.encoder != describe_encoder(only_t5(args.model_config), args):
        logger.warning("%s was made by another text encoder, or in another dtype or quantization: nothing of it is "
                       "kept", path)
        return {}
    return {text: stored[text] for text in stored if stored.is_sound(text)}


def load_conditioner(args: Arguments) -> nn.Module:
    """Return the conditioner alone, with its weights, quantized and offloaded as the settings ask."""
    memory, device = args.memory, args.run.device
    at_first = torch.device("cpu") if memory.offload is not None else device
    conditioner = instantiate_from_config(args.model_config.conditioner_config)
    conditioner = conditioner.to(device=at_first, dtype=args.run.dtype).eval()
    if memory.quantize_t5 is not None:
        quantize_linears(conditioner, memory.quantize_t5)
    if memory.offload is not None:
        offload_conditioner(conditioner, memory.offload, device)
    return conditioner


@torch.no_grad()
def encode_texts(conditioner: nn.Module, texts: list[str]) -> dict[str, Tensor]:
    """Return the text embedding (max_length, width) of each text, each encoded alone as for a video."""
    report_prompts(conditioner, [(f"text {number}", text) for number, text in enumerate(texts)])
    encoder: Any = conditioner.get_submodule("embedders.0")
    return {text: encoder([text])[0].cpu() for text in console.progress(texts, "prompts", disable=len(texts) < 2)}


def write_text_embeddings(path: Path, embeddings: dict[str, Tensor], args: Arguments) -> None:
    """Write text embeddings to a file, with the identity of the text encoder that made them."""
    write_text_file(path, embeddings, describe_encoder(only_t5(args.model_config), args))
    logger.info("%d text embedding(s) in %s; sample with %s %s", len(embeddings), path, READ, path)
