"""Videos of a study as its report shows them: each with its caption, seed, setting, and whether the judge is right."""
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shapes_judge import ATTRIBUTES
from benchmarks.studies.clips import TABLE, read_clips
from benchmarks.studies.grid import Cell, VariantCell
from benchmarks.studies.page import encoded

VIDEOS = 4  # shown for each cell


@dataclass(frozen=True)
class Shown:
    """A video and what is known of it; `wrong` names attributes that differ from the caption, None if not judged."""

    path: Path
    caption: str
    seed: int
    setting: str
    wrong: tuple[str, ...] | None

    @property
    def mark(self) -> str:
        """Right or wrong, as HTML that does not depend on colour."""
        if self.wrong is None:
            return '<span class="note">not judged</span>'
        if self.wrong:
            return f'<span class="wrong">✗ wrong: {html.escape(", ".join(self.wrong))}</span>'
        return '<span class="right">✓ right</span>'

    @property
    def html(self) -> str:
        """A figure with the file embedded."""
        source = f"data:video/mp4;base64,{encoded(self.path)}"
        return (f'<figure><video autoplay loop muted playsinline src="{source}"></video><figcaption>{self.mark}<br>'
                f"{html.escape(self.caption)}<br>{html.escape(self.setting)}, seed {self.seed}"
                "</figcaption></figure>")


def videos_of(cell: Cell | VariantCell, folder: Path) -> Iterator[Shown]:
    """Yield the first VIDEOS videos in a solved cell's folder: one of each caption, before any has a second.

    They are in NUMBER_CAPTION/SEED, beside the table of their verdicts.
    """
    verdicts = _verdicts(folder / TABLE, cell.seed)
    found = [path for path in folder.glob("[0-9]*_*/[0-9]*/*.mp4") if path.parent.name.isdecimal()]
    for path in sorted(found, key=lambda path: (int(path.parent.name), path))[:VIDEOS]:
        caption, seed = path.parts[-3].partition("_")[2], int(path.parent.name)
        yield Shown(path, caption, seed, setting_of(cell), verdicts.get((caption, seed)))


def setting_of(cell: Cell | VariantCell) -> str:
    """Return the names of a cell's parts and its steps."""
    return str(cell).removesuffix(f", seed {cell.seed}")


def _verdicts(path: Path, seed: int) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the wrong attributes by caption and seed of the video, of a cell's seed; empty if there is no table."""
    if not path.is_file():
        return {}
    clips = read_clips(path)
    repeats = clips.right.shape[1]
    return {(combination.caption, seed * repeats + repeat):
            tuple(name for name, right in zip(ATTRIBUTES, row, strict=True) if not right)
            for combination, rows in zip(clips.combinations, clips.right, strict=True)
            for repeat, row in enumerate(rows)}
