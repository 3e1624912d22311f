"""Decoding of latents into the files of a video."""
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common import console
from common.errors import ConfigError, DataError
from common.files import WholeFiles, whole_files
from common.listing import listed
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.unread import warn_typed
from diffusion_video import build_codec
from engine.checks import check_device, check_model
from engine.first_stage import first_stage_weights, require_weights
from inference.circumstances import batch_entry, circumstances
from inference.jobs import Job
from inference.made_from import made_from
from inference.output_folder import FILES, own_output
from inference.segments import Sampled, frames_of
from inference.sizes import model_limits
from media.records import (
    FPS_OF_NOISE,
    LATENTS,
    NOISE,
    RECORD,
    RECORD_VERSION,
    VIDEO,
    check_decodable,
    find_latents,
    load_latents,
    record_describing,
    save_latents,
    versions,
    write_record,
)
from media.videos import check_encoder, write_outputs
from parallel import groups
from weights.identity import identity

logger = logging.getLogger(__name__)


def save(frames: Iterator[Tensor], job: Job, sampled: Sampled, row: int, latents_only: bool, files: WholeFiles) -> str:
    """Write the video of a row of a batch with its contact sheet, or its latents alone; return the file's name.

    `frames` are those of `Sampled.frames`. The video appears with the others of `files`, among them the noise that a
    clip was inverted to.
    """
    if sampled.inverted is not None and groups.leads_copy():
        save_latents(job.folder / NOISE, sampled.inverted[row], job.plan.fps, files, FPS_OF_NOISE)
    if not latents_only:
        write_frames(frames, job.folder, job.plan.fps, files)
        return VIDEO
    if groups.leads_copy():
        save_latents(job.folder / LATENTS, sampled.latents[row], job.plan.fps, files)
    return LATENTS


def write_frames(frames: Iterator[Tensor], folder: Path, fps: int, files: WholeFiles) -> None:
    """Write chunks of frames (3, t, H, W) as a video, each as it comes, or before the next is decoded."""
    if groups.leads_copy():
        write_outputs(folder, frames, fps, files)
    elif len(groups.context_group()[1]) > 1:
        for _ in frames:  # decoded together, written by one
            pass


def shown(frames: Iterator[Tensor], disable: bool = False) -> Iterator[Tensor]:
    """Return chunks of frames with a progress bar."""
    return iter(console.progress(frames, "decode", unit="chunk", leave=False, disable=disable))


def record_of(batch: Sequence[Job], row: int, args: Arguments, device: torch.device, trace: Mapping) -> dict:
    """Return the record of a video of a batch: everything needed to make it again, and the course of sampling."""
    job, sampling = batch[row], args.sampling
    plan = job.plan
    return {"record_version": RECORD_VERSION, "prompt": job.prompt.text, "image": job.prompt.image,
            "last": job.prompt.last, "clip": job.prompt.clip, "control": job.prompt.control,
            "strength": sampling.strength, "invert": sampling.invert, **_in_segments(job),
            "negative_prompt": sampling.negative_prompt,
            "loras": [chosen._asdict() for chosen in args.run.loras],
            "seed": args.run.seed if job.seed is None else job.seed,
            "prompt_index": job.prompt.index, "sample": job.sample,
            "frames": job.frames, "height": plan.height, "width": plan.width, "fps": plan.fps,
            "device": str(device), "versions": versions(), **trace,
            "config": args.composed, "allow_targets": list(args.allow_targets), "batch": batch_entry(batch, row),
            "made_from": made_from(job), "made_with": circumstances(args, device)}


def write_last(job: Job, record: Mapping, written: str, files: WholeFiles) -> None:
    """Write the record of a video whose other files are `written`; what an earlier run left beside them goes."""
    write_record(job.folder, record, written, files=files)
    files.leave_others(job.folder / name for name in FILES)


def _in_segments(job: Job) -> dict:
    """Return how a video was made in segments, and how many of its first frames are the clip's."""
    made = job.segments
    return {} if made is None else {"segments": made.count, "segment_frames": job.plan.frames,
                                    "kept_latents": made.kept, "clip_frames": made.before}


def check_decoding(args: Arguments) -> None:
    """Raise ConfigError for what cannot be done with saved latents: a plan of them, and leaving out finished videos."""
    given = [key for key, asked in (("plan", args.run.plan), ("resume", args.sampling.resume)) if asked]
    if args.sampling.input_type == "latents" and given:
        raise ConfigError(f"args.{given[0]} does not work with args.input_type latents, which decodes all of "
                          "them; leave it out")
    if args.sampling.input_type == "latents":
        warn_typed(args, "decoding latents")


def decode_saved_latents(args: Arguments, device: torch.device) -> None:
    """Decode latents that were written with `only_save_latents`, each into a folder of the same name.

    All are checked before any weights are read.
    """
    model = check_model(args.model_config)
    check_device(model, args.run.device, args.run.dtype)
    require_weights(model.first_stage_config)
    channels = model_limits(args.model_config).channels
    found = find_latents(args.sampling.input_file)
    for path, _ in found:
        _read(path, channels)
    check_codec([path for path, _ in found], model)
    check_encoder()
    with own_output(args.sampling.output_dir):
        _decode_all(found, channels, args, device)
    logger.info("%d video(s) in %s", len(found), args.sampling.output_dir)


def _decode_all(found: list[tuple[Path, Path]], channels: int, args: Arguments, device: torch.device) -> None:
    codec = build_codec(args.of_engine(device)).eval()
    codec.configure_memory(args.autoencoder)
    for path, relative in console.progress(groups.own_share(found), "videos"):
        latents, fps = _read(path, channels)
        folder = Path(args.sampling.output_dir) / relative
        in_place = folder.resolve() == path.parent.resolve()
        record = _record_of_latents(path)
        kept = [path.name] if in_place and path.name in record["files"] else []
        if not kept:
            record.pop("made_from", None)  # of the latents alone: the decoding may be another
        with whole_files() as files:
            write_frames(shown(frames_of(codec, latents.to(device))), folder, fps, files)
            if groups.leads_copy():
                if not in_place:
                    files.leave_others(folder / name for name in FILES)
                write_record(folder, record | {"decoded_from": str(path)}, VIDEO, *kept, files=files)


def _read(path: Path, channels: int) -> tuple[Tensor, int]:
    """Return the latents and frame rate of a file. Raises DataError if the model cannot decode them."""
    latents, fps = load_latents(path)
    check_decodable(path)
    if latents.shape[1] != channels:
        raise DataError(f"{path} holds latents of shape {tuple(latents.shape)}; this model decodes "
                        f"(odd frames, {channels}, height, width)")
    return latents, fps


def check_codec(paths: Sequence[Path], model: ModelConfig) -> None:
    """Raise ConfigError for latents of another scale; log a warning for those of another autoencoder, with a count."""
    weights = first_stage_weights(model.first_stage_config)
    now = {"scale": model.scale_factor, "autoencoder": None if weights is None else identity(weights.source)}
    others = []
    for path in paths:
        made = (record_describing(path) or {}).get("made_from") or {}
        scale = made.get("model.scale_factor", now["scale"])
        if scale != now["scale"]:
            raise ConfigError(f"{path} was sampled with model.scale_factor {scale}, and this configuration has "
                              f"{now['scale']}; give the configuration of the model that sampled it")
        if made.get("contents.autoencoder", now["autoencoder"]) != now["autoencoder"]:
            others.append(path)
    if others:
        logger.warning("%d of %d latents were sampled for another autoencoder than the one that decodes them: %s",
                       len(others), len(paths), listed(others))


def _record_of_latents(path: Path) -> dict:
    """Return the record that was written with a file of latents; without one, an empty record."""
    record = record_describing(path)
    if record is None and (path.parent / RECORD).is_file():
        logger.warning("%s does not describe the latents beside it and is not copied", path.parent / RECORD)
    return {"files": {}} if record is None else record
