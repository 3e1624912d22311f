"""Samples written during training, for inspection."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.files import whole_file
from common.seeds import generator_for
from diffusion_video import DiffusionEngine
from media.records import LATENTS, save_latents
from media.videos import write_outputs
from parallel import groups


@dataclass(frozen=True)
class SampleRequest:
    """The captions, first frames or control clips, and noise of samples, the same after every step.

    `images` are (n, 3, H, W), `controls` (n, T, 3, H, W), each None if the model takes none.
    """

    captions: Sequence[str]
    images: Tensor | None
    shape: tuple[int, int, int, int]  # latents (T, C, h, w), without padding latents
    fps: int
    seed: int
    decode: bool = True  # False: write latents, which args.input_type=latents decodes later
    controls: Tensor | None = None


@torch.no_grad()
def write_samples(engine: DiffusionEngine, request: SampleRequest, folder: Path) -> None:
    """Sample with the engine's current weights; write mp4, contact sheet and caption of each to `<folder>/<i>/`.

    Without `request.decode`, latents take the place of mp4 and contact sheet. Samples are made one at a time, which
    takes the least memory, and divided among the processes.
    """
    for i in groups.own_share(range(len(request.captions))):
        (folder / str(i)).mkdir(parents=True, exist_ok=True)
        latents = _sample(engine, request, i)
        if request.decode:
            write_outputs(folder / str(i), (chunk[0] for chunk in engine.decode_latents(latents)), request.fps)
        else:
            save_latents(folder / str(i) / LATENTS, latents[0], request.fps)
        with whole_file(folder / str(i) / "prompt.txt") as file:
            file.write_text(request.captions[i] + "\n", encoding="utf-8")


def _sample(engine: DiffusionEngine, request: SampleRequest, i: int) -> Tensor:
    """Return the latent of one sample, (1, T, C, h, w), without padding latents."""
    padding = -request.shape[0] % engine.patch_t
    shape = (request.shape[0] + padding, *request.shape[1:])
    conditioning = engine.conditioner.conditioning({"txt": [request.captions[i]]})
    if request.images is not None:
        image = request.images[i:i + 1].to(engine.device)
        images = engine.encode_image(image, shape[0], generator_for(request.seed, "image", i))
        conditioning = conditioning.shared(concat=images)
    if request.controls is not None:
        control = request.controls[i:i + 1].to(engine.device).transpose(1, 2)
        conditioning = conditioning.shared(concat=engine.encode_clip(control))
    noise = [generator_for(request.seed, "sample", i)]
    return engine.sample(conditioning, shape=shape, generator=noise)[:, padding:]
