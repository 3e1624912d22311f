"""The origin of a video: all that determines it, which its record keeps and `--resume` compares.

Settings count unless they are listed here as without effect, so that a new one counts. Files count by their contents.
Entries are flat: dotted keys with values as JSON has them.
"""
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from configuration.model import UNREAD as UNREAD_OF_MODEL
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from engine.first_stage import first_stage_weights
from engine.stored_text import describe_encoder, stored_file
from engine.text_encoder import t5_configs
from inference.jobs import Job
from weights.identity import identity
from weights.lora_files import files_of
from weights.sources import transformer_weights

# Settings that change no video, or none beyond rounding, or that count by another entry: sizes, contents, dtype.
NO_EFFECT = {
    "mode", "plan", "device", "model_parallel_size", "guidance_parallel_size", "sequence_parallel_size", "offload",
    "overlap", "output_dir", "resume", "save_denoised_every", "only_save_latents", "batch_size", "num_samples",
    "force_inference", "input_type", "input_file", "image2video", "num_frames", "sampling_num_frames",
    "sampling_image_size", "sampling_fps", "latent_channels", "load", "load_lora", "fp16", "bf16", "quantize_t5",
    "text_embeddings", "save_text_embeddings", "long_video"}
NO_EFFECT_IN_MODEL = {
    *UNREAD_OF_MODEL, "loss_fn_config", "loss_config", "input_key", "latent_input", "noised_image_dropout",
    "control_dropout", "not_trainable_prefixes", "en_and_decode_n_samples_a_time", "compile_model", "compile_dynamic",
    "compile_first_stage", "guidance_one_by_one", "ucg_rate", "is_trainable", "cp_size", "model_parallel_size",
    "checkpoint_activations", "offload_activations", "verbose", "device", "freeze", "ckpt_path", "model_dir",
    "cache_dir"}
LONGEST = 60  # characters of a value in a message

Entries = dict[str, Any]


def run_made_from(args: Arguments) -> Entries:
    """Return what every video of a checked run is made from."""
    model = ModelConfig.read(args.model_config)
    settings = {field.name: getattr(group, field.name)
                for group in (args.run, args.sampling, args.autoencoder, args.memory) for field in fields(group)
                if field.name not in NO_EFFECT}
    encoder, contents = _text_encoder(args, model), contents_of_weights(args, model)
    if "contents" in encoder:
        contents["text encoder"] = encoder.pop("contents")
    return _flat(settings | {"dtype": args.run.dtype, "text_encoder": encoder, "contents": contents,
                             "model": {key: part for key, part in vars(model).items() if key != "conditioner_config"}})


def made_from(job: Job) -> Entries:
    """Return what a video is made from."""
    plan = job.plan
    return dict(job.run) | _flat({
        "prompt": job.prompt.text, "prompt_index": job.prompt.index, "sample": job.sample, "frames": plan.frames,
        "height": plan.height, "width": plan.width, "fps": plan.fps, "contents": job.contents})


def difference(before: object, now: Entries) -> str | None:
    """Return a clause on the first entry of a record that differs from a run's; None if all are equal."""
    if not isinstance(before, Mapping):
        return "its record does not say what it is made from"
    return next(differences(before, now), None)


def differences(before: Mapping, now: Mapping) -> Iterator[str]:
    """Yield a clause on each entry of a record that differs from a run's."""
    for key in dict.fromkeys((*now, *before)):
        if before.get(key) != now.get(key):
            if key.startswith("contents."):
                yield f"{key.removeprefix('contents.')}: other contents"
            else:
                yield f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"


def contents_of_weights(args: Arguments, model: ModelConfig) -> Entries:
    """Return digests of the weights that a run reads, and of the classes that the command line opened, by part."""
    found = {f"classes of {name}": identity(*files) for name in args.allow_targets if (files := _sources(name))}
    found |= {"transformer": identity(transformer_weights(args.run.weights).source)}
    found |= {f"LoRA {n}": identity(*files_of(chosen.file)) for n, chosen in enumerate(args.run.loras, 1)}
    codec = first_stage_weights(model.first_stage_config)
    if codec is not None:
        found["autoencoder"] = identity(codec.source)
    guider = instantiate_from_config(model.sampler).guider
    if guider.weak is not None:
        found["weaker transformer"] = identity(transformer_weights(guider.weak.ckpt_path).source)
    return found


def _sources(opened: str) -> list[str]:
    """Return the source files of a module that the command line opened, with those below it, as far as it is in use."""
    files = (getattr(module, "__file__", None) for name, module in sys.modules.items()
             if name == opened or name.startswith(f"{opened}.") or opened.startswith(f"{name}."))
    return [file for file in files if file is not None]


def _text_encoder(args: Arguments, model: ModelConfig) -> Entries:
    """Return what text embeddings depend on, which is the same for stored ones and for the encoder that made them."""
    stored, encoders = stored_file(model), t5_configs(model)
    if stored is not None:
        return dict(stored.encoder)
    return describe_encoder(encoders[0], args) if len(encoders) == 1 else {"config": model.conditioner_config}


def _flat(value: Mapping) -> Entries:
    return json.loads(json.dumps(dict(_leaves(value, ())), default=str))


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            if not (path[:1] == ("model",) and key in NO_EFFECT_IN_MODEL):
                yield from _leaves(below, (*path, str(key)))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        for index, one in enumerate(value):
            yield from _leaves(one, (*path, str(index)))
    else:
        yield ".".join(path), value


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
