"""The inputs of a call: texts, pictures, clips and seeds as Python has them, made into prompts with files."""
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from arguments import MODEL_FLAGS
from cogvideo.result import Result
from common.errors import ConfigError, DataError, UserError
from common.files import REPOSITORY
from common.kinds import Seed
from common.suggestions import nearest
from common.typed import checked, shown
from configuration.settings import KEYS
from configuration.yaml_files import existing_path
from inference.checks import check_text
from inference.prompts import Prompt, Source
from inference.sizes import ModelLimits
from media.videos import write_lossless

Picture = str | Path | Image.Image | np.ndarray
Clip = str | Path | np.ndarray | Result
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
TIFF_MODES = ("CMYK", "LAB", "I", "F")
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # an entry of TIFF
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
PICTURE = "a path, a PIL image, or an array (H, W, 3) uint8"
IN_A_CALL = ("num_samples", "num_frames", "strength", "invert", "continue_from", "continue_rounds", "segments",
             "batch_size", "sampling_image_size", "sampling_fps")
OTHERS = ("prompt", "negative_prompt", "seed", "image", "last", "clip", "control", "latents", "num_inference_steps",
          "guidance_scale", "callback", "estimates", "progress")
OTHER_NAMES = {"height": "sampling_image_size=(height, width)", "width": "sampling_image_size=(height, width)",
               "generator": "seed=…", "steps": "num_inference_steps=…", "num_videos_per_prompt": "num_samples=…"}
CLIP = "a path, a result, or an array (frames, H, W, 3) uint8"


@dataclass(frozen=True)
class Given:
    """What a call gives for its videos: one value for all prompts, or a list with one for each."""

    negative: str | Sequence[str | None] | None = None
    image: Picture | Sequence[Picture] | None = None
    last: Picture | Sequence[Picture] | None = None
    clip: Clip | Sequence[Clip] | None = None
    control: Clip | Sequence[Clip] | None = None

    def prompts(self, texts: Sequence[str], folder: Path, fps: int) -> list[Prompt]:
        """Return prompts whose pictures and clips are files; those in memory are written into `folder`, at `fps`.

        Raises DataError for values of other kinds, and for lists of another length.
        """
        columns = {name: each(getattr(self, name), len(texts), name)
                   for name in ("negative", "image", "last", "clip", "control")}
        found = []
        for i, text in enumerate(texts):
            row = {name: column[i] for name, column in columns.items()}
            negative = None if row["negative"] is None else text_of(row["negative"], "negative_prompt")
            pictures = {name: _picture(row[name], folder / f"{name}{i}.png", name) for name in ("image", "last")}
            clips = {name: _clip(row[name], folder / f"{name}{i}.mkv", name, fps) for name in ("clip", "control")}
            found.append(Prompt(i, text_of(text, "prompt"), negative=negative, **pictures, **clips))
        return found


@contextmanager
def named_as_given(folder: Path) -> Iterator[None]:
    """Context manager in which errors name pictures and clips of memory by their parameter, not by file in `folder`."""
    try:
        yield
    except UserError as error:
        file = rf"(?:\b(?:image|picture|(?:control )?clip) )?{re.escape(str(folder))}/([a-z]+)(\d+)\.\w+"
        told = re.sub(file, r"\1 of prompt \2", str(error))
        raise type(error)(told) from error


def texts_of(prompt: Any) -> list[str]:
    """Return the texts of one prompt or a list of them. Raises DataError for anything else, and for an empty list."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list | tuple) or not prompt:
        raise DataError(f"prompt is {shown(prompt)}; give a text, or a list of texts")
    return list(prompt)


def text_of(value: Any, name: str) -> str:
    """Return a text. Raises DataError for anything else, ConfigError for characters that are none."""
    if not isinstance(value, str):
        raise DataError(f"{name} is {shown(value)}; it must be a text")
    check_text(value, name)
    return value


def each(given: Any, count: int, name: str) -> list[Any]:
    """Return one value for each of `count` prompts. Raises DataError if several are given, but not as many."""
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise DataError(f"{name}: {len(given)} given for {count} prompt(s); give one, or one for each")
    return list(given)


def plain(value: Any) -> Any:
    """Return a number or list of numpy or torch as Python's; anything else as it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


def seeds_of(seed: Any, count: int, single: bool) -> list[list[int | None]]:
    """Return the seeds of each of `count` prompts.

    A list has one for each prompt, or several for a `single` one; a list of lists has several for each prompt. None is
    the seed of the run. Raises ConfigError or DataError.
    """
    seed = plain(seed)
    seed = list(map(plain, seed)) if isinstance(seed, list | tuple | range) else seed
    if single and isinstance(seed, list):
        seed = [seed]
    found = []
    for own in each(seed, count, "seed"):
        several = list(own) if isinstance(own, list | tuple | range) else [own]
        if not several:
            raise DataError("seed is an empty list; give one seed or more")
        found.append([None if one is None else checked(Seed, plain(one), "seed") for one in several])
    return found


def check_sources(prompts: Sequence[Prompt], source: Source | None) -> None:
    """Raise DataError for a prompt without what a run starts from (`source`), or with what it cannot use."""
    wants = {"image": source in ("image", "image or clip"), "clip": source in ("clip", "image or clip", "clip if any"),
             "control": source in ("control", "control if any")}
    for prompt in prompts:
        has = {name: getattr(prompt, name) is not None for name in wants}
        for name, article, what in (("image", "an", "image"), ("control", "a", "control clip"), ("clip", "a", "clip")):
            if has[name] and not wants[name]:
                hint = "; give strength, invert or continue_from to start from one, and no latents" * (name == "clip")
                raise DataError(f"prompt {prompt.index}: this {'run' if hint else 'model'} takes no {what}{hint}")
            if source == name and not has[name]:
                raise DataError(f"prompt {prompt.index}: this {'run' if name == 'clip' else 'model'} needs {article} "
                                f"{what}; give {name}=…")
        if source == "image or clip" and has["image"] == has["clip"]:
            raise DataError(f"prompt {prompt.index}: this model needs either an image or a clip to continue")
        for name in ("clip", "control"):
            path = getattr(prompt, name)
            if path is not None and not Path(path).is_file():
                raise DataError(f"prompt {prompt.index}: {'control clip' if name == 'control' else 'clip'} {path} does "
                                "not exist")


def latents_of(given: Any, count: int, shape: Sequence[int]) -> list[Tensor | None]:
    """Return the latents (T, C, h, w) of each of `count` videos, one tensor for all or a batch (B, T, C, h, w).

    Raises DataError for other shapes than `shape`, and for values that are not finite.
    """
    if given is None:
        return [None] * count
    rows = each(given, count, "latents") if isinstance(given, list | tuple) else None
    if rows is None:
        tensor = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
        if not isinstance(tensor, Tensor):
            raise DataError(f"latents is {shown(given)}; it must be a tensor (latent frames, channels, height, width)")
        rows = list(tensor) if tensor.ndim == 5 else [tensor] * count
        each(rows, count, "latents")
    for row in rows:
        if not isinstance(row, Tensor) or tuple(row.shape) != tuple(shape):
            found = list(row.shape) if isinstance(row, Tensor) else type(row).__name__
            raise DataError(f"latents are {found}, and this video's {list(shape)}: (latent frames, channels, height, "
                            "width)")
        if not row.is_floating_point() or not torch.isfinite(row).all():
            raise DataError("latents are not finite numbers of floating point")
    return [row.float() for row in rows]


def _path(given: str | Path) -> str:
    return existing_path(str(given), Path.cwd(), REPOSITORY)


def _picture(picture: Any, path: Path, name: str) -> str | None:
    """Return the path of a picture, after writing one in memory to `path`."""
    if picture is None:
        return None
    if isinstance(picture, str | Path):
        if not Path(_path(picture)).is_file():
            raise DataError(f"{name} {picture} does not exist, here or in the repository")
        return _path(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise DataError(f"{name}: a picture as an array is (H, W, 3) uint8, not {picture.shape} {picture.dtype}")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise DataError(f"{name} is of type {type(picture).__name__}; it must be {PICTURE}")
    try:
        return str(_written(picture, path))
    except (OSError, ValueError, SyntaxError, KeyError, struct.error) as error:
        raise DataError(f"{name}: the picture cannot be read ({' '.join(str(error).split())[:120]}); open it again, "
                        "or give its path") from error


def _written(picture: Image.Image, path: Path) -> Path:
    """Write a picture of any mode upright, as PNG, or as TIFF if PNG cannot hold its values; return its path."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in PREMULTIPLIED:
        upright = upright.convert(PREMULTIPLIED[upright.mode])
    inverted = dict(getattr(picture, "tag_v2", {})).get(PHOTOMETRIC) == WHITE_IS_ZERO
    if upright.mode.startswith("I;16"):  # in any order of bytes, and as TIFF may have it, white as 0
        values = np.asarray(upright).astype(np.uint16)
        upright = Image.fromarray(65535 - values if inverted else values)
    if upright.mode in TIFF_MODES:
        path = path.with_suffix(".tiff")
        upright.save(path, tiffinfo={PHOTOMETRIC: WHITE_IS_ZERO} if inverted else {})
        return path
    if upright.mode not in PNG_MODES:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    upright.save(path)
    return path


def _clip(clip: Any, path: Path, name: str, fps: int) -> str | None:
    """Return the path of a clip, after writing one in memory to `path`."""
    if clip is None or isinstance(clip, str | Path):
        return None if clip is None else _path(clip)
    frames, fps = (clip.video, clip.fps) if isinstance(clip, Result) else (clip, fps)
    if not isinstance(frames, np.ndarray):
        raise DataError(f"{name} is of type {type(clip).__name__}; it must be {CLIP}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise DataError(f"{name}: a clip as an array is (frames, H, W, 3) uint8, not {frames.shape} {frames.dtype}")
    write_lossless(path, frames, fps)
    return str(path)


def check_setting(key: str) -> None:
    """Raise ConfigError for a key that a call cannot have."""
    if key in IN_A_CALL:
        return
    if key in KEYS or key in MODEL_FLAGS:
        raise ConfigError(f"call: {key} is decided when a model is loaded; give it to load")
    instead = f"; give {OTHER_NAMES[key]}" if key in OTHER_NAMES else nearest(key, (*IN_A_CALL, *OTHERS))
    raise ConfigError(f"call: there is no {key}{instead}")


def decodable(latents: Any, channels: int) -> list[Tensor]:
    """Return the rows (T, C, h, w) of latents. Raises DataError for latents that cannot be decoded."""
    if not isinstance(latents, Tensor) or latents.ndim not in (4, 5):
        found = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise DataError(f"latents are {found}; give a tensor (latent frames, channels, height, width), or a batch of "
                        "them")
    rows = [latents] if latents.ndim == 4 else list(latents)
    if not rows or 0 in latents.shape or rows[0].shape[1] != channels:
        raise DataError(f"latents are {list(latents.shape)}; this model's have {channels} channels: (latent frames, "
                        "channels, height, width)")
    if rows[0].shape[0] % 2 == 0:
        raise DataError(f"latents have {rows[0].shape[0]} frames; the autoencoder decodes an odd number of them, "
                        "without padding latents")
    if not latents.is_floating_point() or not torch.isfinite(latents).all():
        raise DataError("latents are not finite numbers of floating point")
    return rows


def encodable(clip: Any, limits: ModelLimits) -> Tensor:
    """Return a clip as (3, frames, H, W) in [-1, 1]. Raises DataError for one that the model does not take."""
    if not isinstance(clip, np.ndarray) or clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
        raise DataError(f"a clip is (frames, H, W, 3) uint8, not {_described(clip)}")
    frames, height, width = clip.shape[:3]
    if frames not in limits.frame_counts or height % limits.side_multiple or width % limits.side_multiple:
        raise DataError(f"the clip is {frames} frames of {height} x {width}; this model takes "
                        f"{', '.join(map(str, limits.frame_counts[:4]))} … frames, and sides that are multiples of "
                        f"{limits.side_multiple}")
    return torch.from_numpy(np.array(clip)).permute(3, 0, 1, 2).float() / 127.5 - 1


def _described(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
