"""Samples written during training, for inspection."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.seeds import generator_for
from diffusion_video import DiffusionEngine
from media.records import LATENTS, save_latents
from media.videos import write_outputs


@dataclass(frozen=True)
class SampleRequest:
    """The captions, first frames and noise of samples, the same after every step; `images` (n, 3, H, W) or None."""

    captions: Sequence[str]
    images: Tensor | None
    shape: tuple[int, int, int, int]  # latents (T, C, h, w), without padding latents
    fps: int
    seed: int
    decode: bool = True  # False: write latents, which args.input_type=latents decodes later


@torch.no_grad()
def write_samples(engine: DiffusionEngine, request: SampleRequest, folder: Path) -> None:
    """Sample with the engine's current weights; write mp4, contact sheet and caption of each to `<folder>/<i>/`.

    Without `request.decode`, latents take the place of mp4 and contact sheet.
    """
    count = len(request.captions)
    padding = -request.shape[0] % engine.patch_t
    shape = (request.shape[0] + padding, *request.shape[1:])
    batch = {"txt": list(request.captions)}
    cond, uncond = engine.conditioner.get_unconditional_conditioning(batch, batch, force_uc_zero_embeddings=["txt"])
    if request.images is not None:
        image = engine.encode_image(request.images.to(engine.device), shape[0], generator_for(request.seed, "image"))
        cond["concat"] = uncond["concat"] = image
    noise = [generator_for(request.seed, "sample", i) for i in range(count)]
    latents = engine.sample(cond, uncond, batch_size=count, shape=shape, generator=noise)[:, padding:]
    for i, caption in enumerate(request.captions):
        (folder / str(i)).mkdir(parents=True, exist_ok=True)
        if request.decode:
            video = engine.decode_first_stage(latents[i:i + 1].transpose(1, 2))
            write_outputs(folder / str(i), [video[0]], request.fps)
        else:
            save_latents(folder / str(i) / LATENTS, latents[i], request.fps)
        (folder / str(i) / "prompt.txt").write_text(caption + "\n", encoding="utf-8")
