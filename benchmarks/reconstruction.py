"""Reconstruction of clips by an autoencoder: PSNR, SSIM, flicker, edges and detail, by frames and resolution.

    python -m benchmarks.reconstruction --base configs/tiny_t2v.yaml --data data/shapes/valid --sizes 64x64 128x128
    python -m benchmarks.reconstruction --base configs/cogvideox_5b.yaml --data CLIPS --frames 17 49 --sizes 256x256
    python -m benchmarks.reconstruction --base configs/cogvideox_vae_sft.yaml --data CLIPS \
        --sizes 256x256 args.load=runs/cogvideox_vae_sft/3d-vae.pt

A configuration names the autoencoder: a model's, or that of an autoencoder's training, with the weights of args.load.
`args.vae_tiling` and the like apply. Clips are all files that training would read below the folder. Those that are
unreadable, or too short for a length, are left out, counted and named.

Values are means over clips, of frames in [0, 255], with the posterior's mean for a latent:

- PSNR in dB.
- SSIM (Wang et al. 2004, eq. 13; Gaussian window of 11 pixels with deviation 1.5), the mean over colours and frames;
  MS-SSIM (Wang et al. 2003, eq. 7), the same over scales: five where all sides have 176 pixels, else fewer.
- Flicker: the mean absolute difference of successive frames, of the reconstruction and of the source. Above the
  source's the reconstruction flickers; below, it loses motion.
- Sharpness: the mean square of differences of neighbouring pixels in a frame, in percent of the source's. Below 100 the
  reconstruction is blurred; above, it has edges or noise that the source lacks.
- Edges kept: how much of the source's differences of neighbouring pixels the reconstruction has too, with the same
  sign and at most a pixel away, in percent. Blur lowers it. Edges true: how much of the reconstruction's differences
  the source has. False edges, ringing, noise and wide blur lower it.
- Detail apart: how far the patches of both lie apart as a whole, wherever they stand, in grey levels (the sliced
  Wasserstein distance, Karras et al. 2018). Blur raises it, and so does noise or any detail that the source does not
  have; detail that is only elsewhere does not. Where detail cannot be known from the latent, what has the highest PSNR
  lies apart, and what does not lie apart has a lower PSNR (Blau and Michaeli 2018).

Clips without edges do not count in sharpness and edges. `--picture FILE.png` shows the middle frame of the first clips
at the first size and length, the source above its reconstruction.
"""
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arguments import get_args
from benchmarks.reconstruction_measures import Quality, compared
from benchmarks.reconstruction_options import autoencoder_of, form_of, options_of
from common.compression import Compression
from common.console import progress, run
from common.errors import DataError, NumericalError
from common.files import whole_file
from common.listing import Remarks
from engine.first_stage import LatentCodec
from media.clip_folders import read_clip_folder
from media.clips import ClipFormat, UnreadableClip, read_clip
from media.videos import tiled, to_pixels

logger = logging.getLogger("reconstruction")

# The measures in the table: heading, and decimal places.
COLUMNS = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 4), "ms_ssim": ("MS-SSIM", 4), "flicker": ("flicker", 2),
           "source_flicker": ("flicker of the source", 2), "sharpness": ("sharpness, %", 1),
           "edges_kept": ("edges kept, %", 1), "edges_true": ("edges true, %", 1),
           "detail_apart": ("detail apart", 2)}
SHOWN, MAGNIFIED = 8, 2  # clips in a picture, and how many pixels of it each of theirs takes along a side


def reconstructed(codec: LatentCodec, clip: Tensor) -> Tensor:
    """Return what the autoencoder makes of a clip (T, 3, H, W)."""
    device = next(codec.parameters()).device
    latent = codec.encode_first_stage(clip.to(device).transpose(0, 1)[None], sample_posterior=False)
    return codec.decode_first_stage(latent)[0].transpose(0, 1).float().cpu()


def pairs(codec: LatentCodec, clips: Sequence[Path], form: ClipFormat, left_out: Remarks
          ) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each clip and its reconstruction, (T, 3, H, W), but for those that are unreadable or too short.

    Raises NumericalError if a reconstruction is not finite.
    """
    for path in progress(clips, desc=form.name, unit="clip"):
        try:
            clip, real = read_clip(str(path), form)
        except UnreadableClip as problem:
            left_out.add("left out, as unreadable", path, str(problem))
            continue
        if real < len(clip):
            left_out.add(f"left out, with fewer than {form.max_num_frames} frames at {form.fps:g} a second", path)
            continue
        made = reconstructed(codec, clip)
        if not torch.isfinite(made).all():
            raise NumericalError(f"the reconstruction of {path} is not finite; take other weights or a wider dtype")
        yield clip, made


def row(form: ClipFormat, found: Sequence[Quality], left_out: int) -> str:
    """Return the table's line for one size and length."""
    cells = [str(form.max_num_frames), f"{form.video_size[0]} x {form.video_size[1]}", str(len(found)), str(left_out)]
    for name, (_, digits) in COLUMNS.items():
        values = [value for one in found if not math.isnan(value := getattr(one, name))]
        cells.append(f"{sum(values) / len(values):.{digits}f}" if values else "-")
    return f"| {' | '.join(cells)} |"


def picture(found: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Return a picture of the middle frames of some clips, above those of their reconstructions."""
    lines = [torch.stack([pair[which][len(pair[which]) // 2] for pair in found], dim=1) for which in (0, 1)]
    frames = to_pixels(torch.cat(lines, dim=1)).repeat(MAGNIFIED, axis=1).repeat(MAGNIFIED, axis=2)
    return tiled(frames, len(found))


def show(path: Path, codec: LatentCodec, clips: Sequence[Path], form: ClipFormat) -> None:
    """Write a picture of the first clips. Raises DataError if none of them can be read whole."""
    found = list(pairs(codec, clips[:SHOWN], form, Remarks("clip")))
    if not found:
        raise DataError(f"--picture: none of the first {SHOWN} clips has {form.max_num_frames} frames; take fewer")
    with whole_file(path) as partial:
        Image.fromarray(picture(found)).save(partial)


def main(argv: Sequence[str] | None = None) -> None:
    options, rest = options_of(argv, __doc__)
    args = get_args(rest)
    config = autoencoder_of(args)
    compression = Compression.of_first_stage(config)
    forms = [form_of(size, options.fps, frames, compression) for frames in options.frames for size in options.sizes]
    folder = read_clip_folder(options.data)
    for oddity in folder.oddities:
        logger.warning("%s: %s", options.data, oddity)
    clips = [clip.video for clip in folder.clips][:options.count]
    codec = LatentCodec(config).to(args.run.device, args.run.dtype)
    codec.configure_memory(args.autoencoder)
    headings = ["frames", "size", "clips", "left out", *(heading for heading, _ in COLUMNS.values())]
    sys.stdout.write(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}\n")
    if not sum(write_row(codec, clips, form) for form in forms):
        raise DataError(f"no clip of {options.data} is readable and long enough; take fewer --frames or a higher --fps")
    if options.picture is not None:
        show(options.picture, codec, clips, forms[0])


def write_row(codec: LatentCodec, clips: Sequence[Path], form: ClipFormat) -> int:
    """Measure the clips at one size and length, write the table's line, and return how many clips it is of."""
    left_out = Remarks("clip")
    found = [compared(*pair) for pair in pairs(codec, clips, form, left_out)]
    sys.stdout.write(row(form, found, len(clips) - len(found)) + "\n")
    sys.stdout.flush()
    left_out.warn(logger)
    return len(found)


if __name__ == "__main__":
    sys.exit(run(main))
