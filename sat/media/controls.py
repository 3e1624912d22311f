"""Control clips: what a model follows in space and time, made from a clip's own frames or found in files beside it."""
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import DataError
from common.listing import listed
from media.clip_facts import Facts
from media.containers import VIDEO_SUFFIXES

Control = Literal["mask", "edges", "folder"]
CONTROLS: tuple[str, ...] = get_args(Control)
FROM_FILES = "folder"
FOLDER = "controls"  # beside `videos`
LEAST_CONTRAST = 0.125  # of a range from -1 to 1: what is less is noise
SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
STEP = 4.0  # what Sobel's operator makes of a step of 1
BRIGHT = 0.999  # the quantile of edges that becomes white
LUMA = (0.2126, 0.7152, 0.0722)  # of BT.709


def made_control(kind: str, frames: Tensor) -> Tensor:
    """Return the control clip that frames (T, 3, H, W) in [-1, 1] give, in that shape and range: white on black."""
    made = {"mask": _mask, "edges": _edges}[kind](frames.float())
    return (2 * made - 1)[:, None].expand(-1, 3, -1, -1).contiguous()


def _mask(frames: Tensor) -> Tensor:
    """Return where frames differ from the colour of the clip's border by more than half of the most, (T, H, W)."""
    border = torch.cat([frames[..., 0, :], frames[..., -1, :], frames[..., 0], frames[..., -1]], dim=-1)
    level = border.transpose(0, 1).flatten(1).median(dim=1).values
    distance = (frames - level[:, None, None]).norm(dim=1)
    return (distance > max(float(distance.max()) / 2, LEAST_CONTRAST)).float()


def _edges(frames: Tensor) -> Tensor:
    """Return the length of the gradient of brightness by Sobel's operator, relative to the clip's strongest ones."""
    gray = torch.einsum("tchw,c->thw", frames, torch.tensor(LUMA, device=frames.device))
    kernel = torch.tensor(SOBEL, device=frames.device)
    padded = F.pad(gray[:, None], (1, 1, 1, 1), mode="replicate")
    length = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).norm(dim=1)
    strongest = torch.quantile(length.flatten()[::max(1, length.numel() // 2 ** 20)], BRIGHT)
    return (length / strongest.clamp(min=STEP * LEAST_CONTRAST)).clamp(max=1)


def control_files(videos: Sequence[Path]) -> list[Path]:
    """Return the control clip of each clip: `…/controls/a/NAME.mp4` for `…/videos/a/NAME.mp4`, in any video format.

    Raises DataError, with a count and the first names, for clips without one.
    """
    found = [_control_file(video) for video in videos]
    without = [video for video, file in zip(videos, found, strict=True) if file is None]
    if without:
        raise DataError(f"{len(without)} of {len(videos)} clips have no control clip: {listed(without)}; put "
                        f"{FOLDER}/NAME.mp4 beside videos/NAME.mp4, or have it made of the clip: data.params.control: "
                        "edges")
    return [file for file in found if file is not None]


def is_control_file(path: Path, folder: Path) -> bool:
    """Return True if a clip lies in a `controls` folder below `folder`."""
    try:
        return FOLDER in path.absolute().relative_to(folder.absolute()).parts[:-1]
    except ValueError:
        return False


def check_controls(videos: Sequence[Path], clips: Sequence[Facts], controls: Sequence[Facts], files: Sequence[Path]
                   ) -> None:
    """Raise DataError, with a count and the first names, if control clips cannot be read or end before their clips."""
    wrong = []
    for video, clip, known, file in zip(videos, clips, controls, files, strict=True):
        if known.problem and not clip.problem:
            wrong.append(f"{file} ({known.problem})")
        elif known.frames < clip.frames:
            wrong.append(f"{file} ({known.frames} frames, {video.name} {clip.frames})")
    if wrong:
        raise DataError(f"{len(wrong)} of {len(files)} control clips cannot be read or are shorter than their clips: "
                        f"{listed(wrong)}; replace them")


def _control_file(video: Path) -> Path | None:
    parts = list(video.absolute().parts)
    places = [position for position in range(len(parts) - 1) if parts[position] == "videos"]
    if not places:
        return None
    parts[places[-1]] = FOLDER
    path = Path(*parts)
    spellings = (path, *(path.with_suffix(suffix) for suffix in VIDEO_SUFFIXES))
    return next((spelling for spelling in spellings if spelling.is_file()), None)
