"""A closed-form world of videos: the exact denoiser of a kernel density over encoded rendered clips, by caption.

    python -m benchmarks.clip_world --out runs/clip_world.safetensors [--clips 4] [--bandwidth 0.1]
    python sample_video.py --base configs/tiny_t2v.yaml configs/inference.yaml --allow-targets benchmarks.clip_world \\
        model.denoiser_config.target=benchmarks.clip_world.ClipDenoiser \\
        model.denoiser_config.params.world=runs/clip_world.safetensors

The first command renders `--clips` clips of each of the 216 captions and encodes them with the small autoencoder. The
second samples with the denoiser of that world in place of the network, whatever the sampler, schedule and guider: see
docs/studies/README.md.
"""
import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.kernel_density import ALL, KernelDensity
from common.console import progress, run
from common.errors import ConfigError, DataError
from common.files import from_repository, whole_file
from common.kinds import AboveZero, Part, Size, Text
from common.seeds import generator_for
from sgm.denoiser import DiscreteDenoiser
from tools.shapes_world import all_combinations, render

CLIPS, BANDWIDTH = 4, 0.1
BATCH = 24  # clips encoded at a time
ALIKE = 1e-2  # largest difference of two embeddings of one caption, in another dtype or batch


class ClipDenoiser(DiscreteDenoiser):
    """The exact denoiser of the world in a file, which evaluates no network; the caption is known by its embedding.

    A row of zeros is unconditional: its data are the clips of all captions. Raises DataError for a file that is no
    world, ConfigError for a prompt that is none of its captions and for a guider that changes the network.
    """

    def __init__(self, scaling_config: Part, num_idx: Size, discretization_config: Part, world: Text,
                 weighting_config: Part | None = None, bandwidth: AboveZero | None = None,
                 do_append_zero: bool = False, quantize_c_noise: bool = True, flip: bool = True):
        super().__init__(scaling_config, num_idx, discretization_config, weighting_config, do_append_zero,
                         quantize_c_noise, flip)
        self.density, self._embeddings = read_world(str(from_repository(world)), bandwidth)

    def denoise(self, network: Callable, x: Tensor, level: Tensor, cond: Mapping, idx: Tensor | None = None,
                **network_inputs) -> Tensor:
        asked = [name for name, value in network_inputs.items() if value is not None and value is not False]
        if asked:
            raise ConfigError(f"a world of clips has no network to be given {', '.join(asked)}; use a guider that "
                              "evaluates conditional and unconditional branches alone")
        alpha, sigma = self.parameterization.alpha_sigma(level)
        return self.density.denoised(x, alpha, sigma, self.groups_of(cond["crossattn"]))

    def groups_of(self, embeddings: Tensor) -> Tensor:
        """Return the number (B,) of the caption of each embedding (B, L, D), ALL for zeros."""
        rows, known = embeddings.float().flatten(1), self._embeddings.to(embeddings.device).flatten(1)
        apart, nearest = torch.cdist(rows, known, p=torch.inf).min(dim=1)
        unconditional = (rows == 0).all(dim=1)
        if ((apart > ALIKE) & ~unconditional).any():
            raise ConfigError("the prompt is none of the captions of the world of clips; write it like 'a red circle "
                              "moves left on a black background'")
        return nearest.masked_fill(unconditional, ALL)


@lru_cache(maxsize=2)
def read_world(path: str, bandwidth: float | None = None) -> tuple[KernelDensity, Tensor]:
    """Return the density of a world's file and the embeddings (captions, L, D) of its captions.

    `bandwidth` replaces that of the file. Raises DataError if the file is missing, or no world.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["world"])
            density = KernelDensity(file.get_tensor("clips"), file.get_tensor("groups"),
                                    about["bandwidth"] if bandwidth is None else bandwidth)
            return density, file.get_tensor("embeddings")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a world of clips ({error}); python -m benchmarks.clip_world writes one"
                        ) from error


@torch.no_grad()
def write_world(engine, path: Path, clips: int = CLIPS, bandwidth: float = BANDWIDTH) -> None:
    """Render `clips` clips of each caption, encode them with an engine's autoencoder, and write the world."""
    combinations = all_combinations()
    wanted = [(group, i) for group in range(len(combinations)) for i in range(clips)]
    encoded = []
    for start in progress(range(0, len(wanted), BATCH), "clips"):
        frames = np.stack([rendered(combinations[group], i) for group, i in wanted[start:start + BATCH]])
        encoded.append(engine.encode_clip(torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1))
    texts = [one.caption for one in combinations]
    embeddings = engine.conditioner.conditioning({"txt": texts}).cond["crossattn"].float().contiguous()
    about = {"captions": texts, "bandwidth": bandwidth}
    with whole_file(path) as temporary:
        save_file({"clips": torch.cat(encoded).contiguous(), "groups": torch.tensor([group for group, _ in wanted]),
                   "embeddings": embeddings}, temporary, {"world": json.dumps(about)})


def rendered(combination, number: int) -> np.ndarray:
    """Return one of the clips of a caption, (17, 64, 64, 3) of 8 bits."""
    seed = generator_for("clip world", combination.caption, number).initial_seed()
    return render(combination, np.random.default_rng(seed))


def main(argv: Sequence[str] | None = None) -> None:
    from benchmarks.small_model import configured, load_engine  # imported late: SwissArmyTransformer takes seconds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file to write, .safetensors")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips of each caption (default: %(default)s)")
    parser.add_argument("--bandwidth", type=float, default=BANDWIDTH,
                        help="deviation of the kernel, where latents have about 1 (default: %(default)s)")
    options, overrides = parser.parse_known_args(argv)
    if options.clips < 1 or not 0 < options.bandwidth < float("inf"):
        raise ConfigError("--clips must be 1 or more, and --bandwidth a number above 0")
    write_world(load_engine(configured("t2v", overrides)), options.out, options.clips, options.bandwidth)
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    sys.exit(run(main))
