"""The form's values from a video's record, with which it is made again."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo.studio.defaults import parts_of
from cogvideo.studio.making import CONTINUE, EDIT
from cogvideo.studio.studio import Studio, note
from common.errors import DataError
from media.records import RECORD, verified_record


def filled(studio: Studio, name: object) -> tuple[str, dict[str, Any]]:
    """Return a remark, and the form's values from the record of a video below the outputs.

    Raises DataError for a video that is not there, and for a record that is damaged or of a model not offered.
    """
    record = _record(studio, name)
    config = record["config"]
    sampler = config["model"]["sampler_config"]
    params = sampler.get("params") or {}
    values = {
        "model": _model(studio, config), "prompts": record["prompt"], "negative": record.get("negative_prompt") or "",
        "seed": record["seed"], "samples": 1, "frames": record.get("segment_frames") or record["frames"],
        "height": record["height"], "width": record["width"], "steps": params.get("num_steps"),
        "loras": [], "strengths": "", **parts_of(sampler)}
    if record.get("strength") is not None:
        values |= {"use": EDIT, "strength": record["strength"]}
    if record.get("kept_latents") is not None:
        values |= {"use": CONTINUE, "kept": record["kept_latents"]}
    return _remark(record), values


def _record(studio: Studio, name: object) -> Mapping[str, Any]:
    try:
        path = (studio.outputs / str(name)).resolve()
        if isinstance(name, str) and path.is_relative_to(studio.outputs) and path.with_name(RECORD).is_file():
            record = verified_record(path.parent)
            if record is not None:
                return record
    except (OSError, ValueError):
        pass
    raise DataError(f"video {str(name)[:100]!r} is not there any more, or its {RECORD} is damaged")


def _model(studio: Studio, config: Mapping[str, Any]) -> str:
    """Return the name of the offered model with these weights."""
    load = str(config["args"]["load"])
    for name, model in studio.models.items():
        if str(model.arguments().run.load) == load:
            return name
    raise DataError(f"none of the models here has its weights, {Path(load).name}; start the studio with --base")


def _remark(record: Mapping[str, Any]) -> str:
    """Return what is not filled in, and what makes another video of the same seed."""
    told = []
    if record.get("prompt_index") or record.get("sample"):
        told.append(f"it was prompt {record.get('prompt_index', 0) + 1}, sample {record.get('sample', 0) + 1} of its "
                    "run, and its noise depends on that; `sample_video.py --from-metadata` makes the same video")
    files = [key for key in ("image", "last", "clip", "control") if record.get(key)]
    if files:
        told.append(f"choose its {' and '.join(files)} again")
    if record.get("loras"):
        told.append("choose its LoRAs again")
    return note("; ".join(["the form is filled in", *told]))
