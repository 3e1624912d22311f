"""What a run leaves behind: videos, contact sheets, latents, and the record of how each came about."""
import json
import logging
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from errors import DataError, NumericalError
from files import whole_file

logger = logging.getLogger(__name__)

VIDEO, SHEET, RECORD, LATENTS = "000000.mp4", "frames.png", "metadata.json", "latents.safetensors"
NOISE = "noise.safetensors"  # what inverting a clip found
LIBRARIES = ("torch", "SwissArmyTransformer", "transformers", "deepspeed", "omegaconf", "safetensors", "imageio-ffmpeg")
# Constant rate factor of H.264: 0 keeps everything, 18 is called visually lossless.
QUALITY = 8
SHEET_FRAMES = 24
SHEET_COLUMNS = 6


def check_writable(folder: str | Path) -> Path:
    """Makes an output folder and tries to write in it. Raises DataError if that cannot be."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise DataError(f"output folder {folder} cannot be written ({error.strerror}); choose another with --output-dir"
                        ) from error


def to_pixels(frames: Tensor) -> np.ndarray:
    """(3, t, H, W) in [-1, 1] to (t, H, W, 3) of 8 bits. Raises NumericalError if decoding left the finite numbers."""
    if not torch.isfinite(frames).all():
        raise NumericalError("decoding: the frames are not finite; decode in a wider dtype (bf16 or fp32)")
    unit = frames.float().clamp(-1, 1).add(1).div(2)
    return unit.mul(255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def write_video(path: Path, pieces: Iterable[np.ndarray], fps: int) -> None:
    """Writes consecutive pieces (t, H, W, 3) of 8 bits as H.264, each as it comes; the file appears when whole."""
    with whole_file(path) as partial:
        encoder = None
        try:
            for piece in pieces:
                encoder = encoder or _encoder(partial, piece.shape[2], piece.shape[1], fps)
                for frame in piece:
                    encoder.send(np.ascontiguousarray(frame))
        finally:  # also when a piece fails: the encoder's process must let go of the file
            if encoder is not None:
                encoder.close()
        if encoder is None:
            raise ValueError("a video needs at least one frame")


def _encoder(path: Path, width: int, height: int, fps: int) -> Generator[None, np.ndarray, None]:
    import imageio_ffmpeg
    encoder = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, codec="libx264", quality=None,
                                          macro_block_size=1, output_params=["-crf", str(QUALITY)])
    encoder.send(None)
    return encoder


def write_outputs(folder: Path, pieces: Iterable[Tensor], fps: int) -> None:
    """Writes the mp4 of decoded pieces (3, t, H, W), and its contact sheet."""
    frames: list[np.ndarray] = []

    def pixels() -> Iterator[np.ndarray]:
        for piece in pieces:
            frames.append(to_pixels(piece))
            yield frames[-1]

    write_video(folder / VIDEO, pixels(), fps)
    write_contact_sheet(folder / SHEET, np.concatenate(frames))


def write_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """At most 24 frames, evenly spread over the video, row by row in one picture."""
    from PIL import Image
    count = min(len(frames), SHEET_FRAMES)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    with whole_file(path) as partial:
        Image.fromarray(tiled(chosen, min(count, SHEET_COLUMNS))).save(partial)


def tiled(frames: np.ndarray, columns: int) -> np.ndarray:
    """Frames (n, H, W, 3) row by row in one picture (rows, width, 3), with white lines of two pixels around them."""
    rows = -(-len(frames) // columns)
    height, width = frames.shape[1:3]
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        sheet[top:top + height, left:left + width] = frame
    return sheet


def save_latents(path: Path, latents: Tensor, fps: int) -> None:
    """Latents (T, C, h, w) as the sampler gave them, padding dropped, with the rate of their video."""
    from safetensors.torch import save_file
    with whole_file(path) as partial:
        save_file({"latents": latents.float().cpu().contiguous()}, partial, metadata={"fps": str(fps)})


def load_latents(path: Path) -> tuple[Tensor, int]:
    """The latents (T, C, h, w) of a file, and the frame rate. Raises DataError for a file that holds none."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.get_tensor("latents"), int((opened.metadata() or {}).get("fps", 8))
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} holds no latents ({' '.join(str(error).split())[:120]}); sample it again") from error


def find_latents(source: str | None) -> list[tuple[Path, Path]]:
    """Saved latents in a file or below a folder, each with its folder relative to the source."""
    if source is None or not Path(source).exists():
        raise DataError(f"args.input_file {source} does not exist; give a {LATENTS} file or a folder that holds some")
    root = Path(source)
    if root.is_file():
        return [(root, Path(root.stem if root.name != LATENTS else root.parent.name))]
    found = sorted(root.rglob(LATENTS))
    if not found:
        raise DataError(f"folder {source} holds no {LATENTS}; write them with --only-save-latents")
    return [(path, path.parent.relative_to(root)) for path in found]


def write_record(folder: Path, record: Mapping) -> None:
    """Writes metadata.json, the last file of a finished video."""
    with whole_file(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def is_finished(folder: Path, prompt: str, seed: int, latents_only: bool) -> bool:
    """Whether an earlier run finished this prompt with this seed here."""
    if not (folder / (LATENTS if latents_only else VIDEO)).is_file() or not (folder / RECORD).is_file():
        return False
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError:
        logger.warning("%s is damaged; the video is made again", folder / RECORD)
        return False
    return record.get("prompt") == prompt and record.get("seed") == seed


def versions() -> dict[str, str]:
    """The libraries that can change a video's numbers."""
    installed = {distribution.name.lower() for distribution in metadata.distributions() if distribution.name}
    return {name: metadata.version(name) for name in LIBRARIES if name.lower() in installed}
