"""Reconstruction of clips by an autoencoder: PSNR, SSIM, flicker and sharpness, by frames and resolution.

    python -m benchmarks.reconstruction --base configs/tiny_t2v.yaml --data data/shapes/valid --sizes 64x64 128x128
    python -m benchmarks.reconstruction --base configs/cogvideox_5b.yaml --data CLIPS --frames 17 49 --sizes 256x256

Any model's configuration names its autoencoder; `args.vae_tiling` and the like apply. Clips are all files that training
would read below the folder. A clip that is too short for a length is left out of it, and counted. Values are those of
frames in [0, 255], with the posterior's mean for a latent:

- PSNR in dB, the mean over clips.
- SSIM (Wang et al. 2004, eq. 13; Gaussian window of 11 pixels with deviation 1.5), the mean over colours and frames.
- Flicker: the mean absolute difference of successive frames, of the reconstruction and of the source. Above the
  source's the reconstruction flickers; below, it loses motion.
- Sharpness: the mean square of differences of neighbouring pixels in a frame, in percent of the source's. Below 100 the
  reconstruction is blurred; above, it has edges or noise that the source lacks.

`--picture FILE.png` shows the middle frame of the first clips at the first size and length, the source above its
reconstruction. Look at it: a false edge counts as sharp too.
"""
import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from arguments import get_args
from common.console import progress, run
from common.errors import ConfigError, DataError
from common.files import whole_file
from diffusion_video import build_codec
from engine.first_stage import LatentCodec
from media.clip_folders import read_clip_folder
from media.clips import ClipFormat, UnreadableClip, read_clip
from media.videos import tiled, to_pixels

WINDOW, DEVIATION = 11, 1.5
DECODED_STEP = 8  # frames: the decoder takes latent frames in pairs after the first
SHOWN, MAGNIFIED = 8, 2  # clips in a picture, and how many pixels of it each of theirs takes along a side
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Quality:
    """How near a reconstruction is to its source: PSNR in dB, SSIM, the flicker of both, and sharpness in percent."""

    psnr: float
    ssim: float
    flicker: float
    source_flicker: float
    sharpness: float


def ssim(a: Tensor, b: Tensor) -> float:
    """Return the mean structural similarity of frames (T, C, H, W) in [0, 255], whose sides have 11 pixels or more."""
    offsets = torch.arange(WINDOW, dtype=a.dtype) - WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * DEVIATION ** 2))
    kernel = torch.outer(line, line) / line.sum() ** 2

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], kernel[None, None].to(x))

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a ** 2, mean(b * b) - mean_b ** 2
    covariance = mean(a * b) - mean_a * mean_b
    return float(((2 * mean_a * mean_b + C1) * (2 * covariance + C2)
                  / ((mean_a ** 2 + mean_b ** 2 + C1) * (var_a + var_b + C2))).mean())


def flicker(frames: Tensor) -> float:
    """Return the mean absolute difference of successive frames (T, ...)."""
    return float((frames[1:] - frames[:-1]).abs().mean()) if len(frames) > 1 else 0.0


def edge_energy(frames: Tensor) -> float:
    """Return the mean square of the differences of neighbouring pixels of frames (T, C, H, W), along both sides."""
    return float(frames.diff(dim=-1).square().mean() + frames.diff(dim=-2).square().mean())


def compared(source: Tensor, made: Tensor) -> Quality:
    """Return the quality of a reconstruction; both (T, 3, H, W) in [-1, 1]."""
    a, b = ((x.double().clamp(-1, 1) + 1) * 127.5 for x in (source, made))
    error = float((a - b).square().mean())
    sharpness = 100 * edge_energy(b) / max(edge_energy(a), 1e-10)
    return Quality(10 * math.log10(255 ** 2 / max(error, 1e-10)), ssim(a, b), flicker(b), flicker(a), sharpness)


def reconstructed(codec: LatentCodec, clip: Tensor) -> Tensor:
    """Return what the autoencoder makes of a clip (T, 3, H, W)."""
    device = next(codec.parameters()).device
    latent = codec.encode_first_stage(clip.to(device).transpose(0, 1)[None], sample_posterior=False)
    return codec.decode_first_stage(latent)[0].transpose(0, 1).float().cpu()


def pairs(codec: LatentCodec, clips: Sequence[Path], form: ClipFormat) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Yield each clip and its reconstruction, (T, 3, H, W); None for a clip that is unreadable or too short."""
    for path in progress(clips, desc=form.name, unit="clip"):
        try:
            clip, real = read_clip(str(path), form)
        except UnreadableClip:
            yield None
            continue
        yield (clip, reconstructed(codec, clip)) if real == len(clip) else None


def row(form: ClipFormat, found: Sequence[Quality | None]) -> str:
    """Return the table's line for one size and length."""
    good = [one for one in found if one is not None]
    cells = [str(form.max_num_frames), f"{form.video_size[0]} x {form.video_size[1]}", str(len(good)),
             str(len(found) - len(good))]
    if good:
        means = [sum(getattr(one, name) for one in good) / len(good) for name in Quality.__dataclass_fields__]
        cells += [f"{means[0]:.2f}", f"{means[1]:.4f}", f"{means[2]:.2f}", f"{means[3]:.2f}", f"{means[4]:.1f}"]
    else:
        cells += ["-"] * 5
    return f"| {' | '.join(cells)} |"


def picture(found: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Return a picture of the middle frames of some clips, above those of their reconstructions."""
    lines = [torch.stack([pair[which][len(pair[which]) // 2] for pair in found], dim=1) for which in (0, 1)]
    frames = to_pixels(torch.cat(lines, dim=1)).repeat(MAGNIFIED, axis=1).repeat(MAGNIFIED, axis=2)
    return tiled(frames, len(found))


def show(path: Path, codec: LatentCodec, clips: Sequence[Path], form: ClipFormat) -> None:
    """Write a picture of the first clips. Raises DataError if none of them can be read whole."""
    found = [pair for pair in pairs(codec, clips[:SHOWN], form) if pair is not None]
    if not found:
        raise DataError(f"--picture: none of the first {SHOWN} clips has {form.max_num_frames} frames; take fewer")
    with whole_file(path) as partial:
        Image.fromarray(picture(found)).save(partial)


def size_of(text: str) -> tuple[int, int]:
    """Return (height, width) for `HEIGHTxWIDTH`. Raises ConfigError for anything else, and for sides below 16."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) >= 16 for side in sides):
        raise ConfigError(f"--sizes: {text} is not HEIGHTxWIDTH in pixels of at least 16, such as 64x64")
    return int(sides[0]), int(sides[1])


def form_of(size: str, fps: float, frames: int) -> ClipFormat:
    """Return the format of a table's line. Raises ConfigError for a length that the autoencoder cannot decode."""
    if frames < 1 or frames % DECODED_STEP != 1:
        raise ConfigError(f"--frames: {frames} frames cannot be decoded, only {DECODED_STEP}k + 1, such as 9, 17 or 49")
    return ClipFormat(size_of(size), fps, frames)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clips")
    parser.add_argument("--frames", type=int, nargs="+", default=[17], help="lengths, 8k + 1 (default: 17)")
    parser.add_argument("--sizes", nargs="+", default=["64x64"], help="HEIGHTxWIDTH in pixels (default: 64x64)")
    parser.add_argument("--fps", type=float, default=8, help="frames a second at which clips are read (default: 8)")
    parser.add_argument("--count", type=int, help="read the first so many clips (default: all)")
    parser.add_argument("--picture", type=Path, help="file for a picture of the first clips")
    options, rest = parser.parse_known_args(argv)
    forms = [form_of(size, options.fps, frames) for frames in options.frames for size in options.sizes]
    if options.picture is not None and options.picture.suffix.lower() not in (".png", ".webp"):
        raise ConfigError(f"--picture: {options.picture} must end in .png or .webp")
    args = get_args(rest)
    clips = [clip.video for clip in read_clip_folder(options.data).clips][:options.count]
    if not clips:
        raise DataError(f"--count {options.count} leaves no clip; leave it out")
    codec = build_codec(args.of_engine()).eval()
    codec.configure_memory(args.autoencoder)
    sys.stdout.write("| frames | size | clips | left out | PSNR, dB | SSIM | flicker | flicker of the source | "
                     "sharpness, % |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
    for form in forms:
        found = [None if pair is None else compared(*pair) for pair in pairs(codec, clips, form)]
        sys.stdout.write(row(form, found) + "\n")
        sys.stdout.flush()
    if options.picture is not None:
        show(options.picture, codec, clips, forms[0])


if __name__ == "__main__":
    sys.exit(run(main))
