"""Records and latents of finished videos: `metadata.json`, `latents.safetensors`."""
import json
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from torch import Tensor

from common.errors import DataError
from common.files import whole_file
from media.videos import VIDEO

logger = logging.getLogger(__name__)
RECORD, LATENTS = "metadata.json", "latents.safetensors"
NOISE = "noise.safetensors"  # the result of inverting a clip
LIBRARIES = ("torch", "SwissArmyTransformer", "transformers", "deepspeed", "omegaconf", "safetensors", "imageio-ffmpeg")


def save_latents(path: Path, latents: Tensor, fps: int) -> None:
    """Save latents (T, C, h, w) as sampled, without padding, and the frame rate of their video."""
    from safetensors.torch import save_file
    with whole_file(path) as partial:
        save_file({"latents": latents.float().cpu().contiguous()}, partial, metadata={"fps": str(fps)})


def load_latents(path: Path) -> tuple[Tensor, int]:
    """Return the latents (T, C, h, w) and frame rate (default 8) of a file. Raises DataError if it has no latents."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.get_tensor("latents"), int((opened.metadata() or {}).get("fps", 8))
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} has no readable latents ({' '.join(str(error).split())[:120]}); sample it again"
                        ) from error


def find_latents(source: str | None) -> list[tuple[Path, Path]]:
    """Return the files of saved latents in a file or below a folder, each with its folder relative to the source.

    Raises DataError if there are none.
    """
    if source is None or not Path(source).exists():
        raise DataError(f"args.input_file {source} does not exist; give a {LATENTS} file or a folder that holds some")
    root = Path(source)
    if root.is_file():
        return [(root, Path(root.stem if root.name != LATENTS else root.parent.name))]
    found = sorted(root.rglob(LATENTS))
    if not found:
        raise DataError(f"folder {source} contains no {LATENTS}; write them with --only-save-latents")
    return [(path, path.parent.relative_to(root)) for path in found]


def write_record(folder: Path, record: Mapping) -> None:
    """Write metadata.json, the last file of a finished video."""
    with whole_file(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def is_finished(folder: Path, prompt: str, seed: int, latents_only: bool) -> bool:
    """Return True if an earlier run finished this prompt with this seed in the folder."""
    if not (folder / (LATENTS if latents_only else VIDEO)).is_file() or not (folder / RECORD).is_file():
        return False
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError:
        logger.warning("%s is damaged; its video will be made again", folder / RECORD)
        return False
    return record.get("prompt") == prompt and record.get("seed") == seed


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that can change a video's values."""
    installed = {distribution.name.lower() for distribution in metadata.distributions() if distribution.name}
    return {name: metadata.version(name) for name in LIBRARIES if name.lower() in installed}
