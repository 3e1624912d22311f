"""The cells of a comparison, all checked before any is made."""
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo.studio.choices import Choice, asked_for, title_of
from cogvideo.studio.making import Ready, ready
from cogvideo.studio.studio import Studio
from common.errors import ConfigError, UserError


@dataclass(frozen=True)
class Cell:
    """A cell of a comparison: its title, and the video to make."""

    title: str
    given: Ready


def cells_of(studio: Studio, name: object, prompt: object, seed: object, grid: Sequence[Choice]) -> list[Cell]:
    """Return the cells of a grid, each with a folder of its own. Raises a UserError for what cannot be made."""
    model = studio.model(name)
    if model.source() is not None:
        raise ConfigError(f"model {model.name} needs {model.source()} beside the prompt; videos are compared that are "
                          "made of prompts alone")
    folder = studio.new_folder()
    try:
        return [Cell(title_of(choice), _ready(studio, model.name, prompt, seed, choice, f"{folder}/{i:02d}"))
                for i, choice in enumerate(grid)]
    except UserError:
        shutil.rmtree(folder)
        raise


def _ready(studio: Studio, name: str, prompt: object, seed: object, choice: Choice, output: str) -> Ready:
    """Return a cell's video. Raises a UserError; a ConfigError begins with the cell's title."""
    try:
        return ready(studio, asked_for(name, studio.model(name), prompt, seed, choice), Path(output))
    except ConfigError as error:
        raise ConfigError(f"{title_of(choice)}: {error}") from error
