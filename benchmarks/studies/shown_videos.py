"""Videos of a study as its report shows them: each with its caption, seed, setting, and whether the judge is right."""
import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.shapes_judge import ATTRIBUTES
from benchmarks.studies.clips import TABLE, read_clips
from benchmarks.studies.filters import filtered_by
from benchmarks.studies.grid import Cell, VariantCell
from benchmarks.studies.page import encoded

VIDEOS = 4  # shown for each cell


@dataclass(frozen=True)
class Shown:
    """A video and what is known of it; `wrong` names attributes that differ from the caption, None if not judged."""

    path: Path
    caption: str
    seed: int
    cell: Cell | VariantCell
    wrong: tuple[str, ...] | None

    @property
    def judged(self) -> str:
        """Right, wrong or not judged."""
        return "not judged" if self.wrong is None else "wrong" if self.wrong else "right"

    @property
    def html(self) -> str:
        """A figure with the file embedded; its mark does not depend on colour."""
        source = f"data:video/mp4;base64,{encoded(self.path)}"
        sign = {"right": "✓ right", "wrong": f"✗ wrong: {', '.join(self.wrong or ())}"}.get(self.judged, self.judged)
        return (f'<figure {filtered_by({**asdict(self.cell), "judged": self.judged})}>'
                f'<video autoplay loop muted playsinline src="{source}"></video><figcaption>'
                f'<span class="{self.judged}">{html.escape(sign)}</span><br>{html.escape(self.caption)}<br>'
                f"{html.escape(setting_of(self.cell))}, seed {self.seed}</figcaption></figure>")


def videos_of(cell: Cell | VariantCell, folder: Path) -> Iterator[Shown]:
    """Yield the first VIDEOS videos in a solved cell's folder: one of each caption, before any has a second.

    They are in NUMBER_CAPTION/SEED, beside the table of their verdicts.
    """
    verdicts = _verdicts(folder / TABLE, cell.seed)
    found = [path for path in folder.glob("[0-9]*_*/[0-9]*/*.mp4") if path.parent.name.isdecimal()]
    for path in sorted(found, key=lambda path: (int(path.parent.name), path))[:VIDEOS]:
        caption, seed = path.parts[-3].partition("_")[2], int(path.parent.name)
        yield Shown(path, caption, seed, cell, verdicts.get((caption, seed)))


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
