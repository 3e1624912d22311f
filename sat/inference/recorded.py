"""Records of videos as input. A record may come from a stranger, so it is checked as a configuration file is.

Of its configuration, what names files to write counts for nothing.
"""
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import DataError
from common.files import REPOSITORY, expanded_path
from common.kinds import Count
from common.typed import shown, typed
from configuration.settings import KEYS
from configuration.yaml_files import check_sections
from configuration.yaml_text import DEEPEST, MOST_NODES
from inference.prompts import SOURCE_MARK, Prompt, Source, parse_prompt
from media.records import RECORD, RECORD_VERSION, VIDEO, foreign_record, verified_record

# Keys of section `args` that do not say how a video is made, or that other entries of the record say.
LEFT_OUT = {"plan", "resume", "input_type", "input_file", "num_samples", "batch_size"} | {
    name for name, key in KEYS.items() if key.metadata["kind"] == "output"}
FILES = ("image", "clip", "last", "control")


@dataclass(frozen=True)
class Row:
    """A video of a batch, as a record names it; `contents` are digests of its files by the fields that name them."""

    prompt: str
    prompt_index: Count
    sample: Count
    image: str | None = None
    last: str | None = None
    clip: str | None = None
    control: str | None = None
    contents: Mapping[str, str] = field(default_factory=dict, hash=False)

    def files(self) -> dict[str, str]:
        return {name: path for name in FILES if (path := getattr(self, name)) is not None}

    def missing(self) -> str | None:
        """Return a clause on the first of its files that is not there; None if all are."""
        for name, path in self.files().items():
            if not os.path.isfile(path):
                return f"its {name} {shown(path)} is not there"
        return None

    def named(self, source: Source | None, where: str) -> Prompt:
        """Return the prompt. Raises DataError, starting with `where`, for one that does not fit a run's `source`."""
        paths = [path for name in ("image", "clip", "control", "last") if (path := getattr(self, name)) is not None]
        if (missing := self.missing()) is not None:
            raise DataError(f"{where}: {missing}; put it back there")
        text = self.prompt.replace(SOURCE_MARK, " ")  # which is no mark in a prompt of the page or of Python
        prompt = parse_prompt(SOURCE_MARK.join([text, *paths]), self.prompt_index, source, where, Path.cwd())
        wanted = {name: str(Path(path)) for name, path in self.files().items()}
        found = {name: path for name in FILES if (path := getattr(prompt, name)) is not None}
        if prompt.text != text.strip() or {n: str(Path(p)) for n, p in found.items()} != wanted:
            raise DataError(f"{where}: its prompt and files ({', '.join(wanted) or 'none'}) are not those of a run "
                            "with these settings; use the record as it was written")
        return replace(prompt, text=self.prompt.strip())


@dataclass(frozen=True)
class Recorded:
    """A record: its configuration, and the videos that were sampled together, of which `row` is its own.

    `place` is the folder, relative to an output folder, of the video that is made from it again; None: that of its
    prompt. `old` is True for a record that does not hold its batch.
    """

    path: Path
    entries: Mapping[str, Any]
    config: DictConfig
    batch: Sequence[Row]
    row: int
    old: bool
    place: Path | None = None

    @property
    def own(self) -> Row:
        return self.batch[self.row]


def find_records(names: Sequence[str], output_dir: Path) -> list[Recorded]:
    """Return the records in files, beside videos and below folders; those in the output folder count only if named.

    Raises ConfigError or DataError for one that cannot be used, before any other of them is.
    """
    found = []
    for path, place in (pair for name in names for pair in record_places(name, output_dir)):
        found.append(read_recorded(path, place))
    return found


def record_places(name: str | Path, output_dir: str | Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield the path of each record that a name stands for, with the place of its video below another output folder.

    `name` is a record, a video beside its record, or a folder, of which those below the output folder are left out.
    Raises DataError for one that stands for none.
    """
    path, output_dir = expanded_path(name, "--from-metadata"), Path(output_dir).resolve()
    if not path.is_dir():
        yield _record_of(path) if path.suffix.lower() == Path(VIDEO).suffix else path, None
        return
    below = [file for file in sorted(path.rglob(RECORD)) if output_dir not in file.resolve().parents
             or output_dir in (path.resolve(), *path.resolve().parents)]
    if not below:
        raise DataError(f"folder {path} holds no {RECORD}; name one, or a folder that holds some")
    yield from ((file, file.parent.relative_to(path) if file.parent != path else None) for file in below)


def _record_of(video: Path) -> Path:
    """Return the path of the record of a video. Raises DataError if none beside it describes this very file."""
    path = video.with_name(RECORD)
    if path.is_file():
        foreign_record(path)
        described = verified_record(video.parent)
        if described is not None and video.name in described["files"]:
            return path
    raise DataError(f"{video} has no {RECORD} beside it that describes it; name the folder in which it was made")


def read_recorded(path: Path, place: Path | None = None) -> Recorded:
    """Return a record. Raises ConfigError or DataError for one that cannot be used."""
    entries = foreign_record(path)
    version = entries.get("record_version", 1)
    if version not in (1, RECORD_VERSION) or isinstance(version, bool):
        raise DataError(f"{path} is a record of version {shown(version)}, and this code knows up to {RECORD_VERSION}; "
                        "use the code that wrote it, or newer")
    if "decoded_from" in entries:
        raise DataError(f"{path} describes a video that was decoded from saved latents, whose decoding it does not "
                        "hold; decode the latents again (--input-type latents)")
    lacking = [name for name in ("config", "made_from", "prompt", "prompt_index", "sample", "files")
               if name not in entries]
    if lacking:
        raise DataError(f"{path} has no {', '.join(lacking)}, without which its video cannot be made again; was it "
                        "written by sample_video.py, or by an older version?")
    for name in ("config", "made_from", "files"):
        if not isinstance(entries[name], dict):
            raise DataError(f"{path}: {name} is {shown(entries[name])}, not names with values")
    old = "batch" not in entries
    batch, row = ([_row(entries, f"{path}")], 0) if old else _batch(entries["batch"], path)
    own = {name: value for name, value in asdict(batch[row]).items() if name != "contents"}
    if any(entries.get(name) != value for name, value in own.items()):
        raise DataError(f"{path}: its batch names another video in row {row} than the record is of; use it as it was "
                        "written")
    root = (entries.get("made_with") or {}).get("repository") if isinstance(entries.get("made_with"), dict) else None
    if _size(entries["config"], 0, path) > MOST_NODES:
        raise DataError(f"{path}: its config has more than {MOST_NODES} values; it is none of this program")
    config = _config(_moved(entries["config"], root), path)
    return Recorded(path, entries, config, [Row(**_moved(asdict(one), root)) for one in batch], row, old, place)


def _batch(entry: Any, path: Path) -> tuple[list[Row], int]:
    videos, row = (entry.get("videos"), entry.get("row")) if isinstance(entry, dict) else (None, None)
    if not isinstance(videos, list) or not all(isinstance(one, dict) for one in videos):
        raise DataError(f"{path}: its batch has no list of videos; use the record as it was written")
    if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(videos):
        raise DataError(f"{path}: row {shown(row)} is none of the {len(videos)} video(s) of its batch")
    return [_row(one, f"{path}, batch {number}") for number, one in enumerate(videos)], row


def _row(entry: Mapping, where: str) -> Row:
    given = {one.name: entry[one.name] for one in fields(Row) if one.name in entry}
    for name in ("prompt", "prompt_index", "sample"):
        if name not in given:
            raise DataError(f"{where} has no {name}; use the record as it was written")
    return Row(**typed(Row, given, where))


def _config(tree: dict, path: Path) -> DictConfig:
    """Return a record's configuration without what does not say how its video is made."""
    settings = tree.get("args")
    if isinstance(settings, dict):
        tree = tree | {"args": {key: value for key, value in settings.items() if key not in LEFT_OUT}}
    try:
        config = OmegaConf.create(tree)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise DataError(f"{path}: its config cannot be read ({' '.join(str(error).split())[:200]})") from error
    check_sections(config, f"{path}, config")
    return config


def _size(tree: Any, depth: int, path: Path) -> int:
    if depth > DEEPEST:
        raise DataError(f"{path}: its config is nested more than {DEEPEST} levels deep; it is none of this program")
    below = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return 1 + sum(_size(value, depth + 1, path) for value in below)


def _moved(tree: Any, root: Any) -> Any:
    """Return a tree in which files of another copy of this repository are those of this one, where only it has them."""
    if isinstance(tree, dict):
        return {key: _moved(value, root) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_moved(value, root) for value in tree]
    if isinstance(root, str) and root and isinstance(tree, str) and tree.startswith(f"{root}/"):
        here = REPOSITORY / tree.removeprefix(f"{root}/")
        return str(here) if os.path.exists(here) and not os.path.exists(tree) else tree
    return tree
