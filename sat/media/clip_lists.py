"""Lists that name clips with their captions: metadata.csv, metadata.jsonl, or videos.txt beside prompts.txt."""
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.listing import listed
from common.text import lines, read_text

VIDEOS, PROMPTS = "videos.txt", "prompts.txt"
LISTS = ("metadata.csv", "metadata.jsonl", VIDEOS)
FILE_COLUMNS = ("file_name", "video", "video_path", "path")
CAPTION_COLUMNS = ("text", "prompt", "caption")
SEPARATORS = ",;\t"  # a comma, and what spreadsheets write in its place
CAPTION_KEY = "data.params.txt_key"


@dataclass(frozen=True)
class Entry:
    """A clip of a list: its file as the list names it, its caption (possibly empty), and the place in the list."""

    file: str
    caption: str
    where: str


def find_list(folder: Path) -> Path | None:
    """Return the list of a folder, which is there or in its `videos`; None without one. Raises DataError for several.
    """
    found = [place / name for place in (folder, folder / "videos") for name in LISTS if (place / name).is_file()]
    if len(found) > 1:
        raise DataError(f"training data {folder} has several lists of clips, {listed(found)}; keep one of them")
    return found[0] if found else None


def read_list(path: Path, caption_column: str | None = None) -> list[Entry]:
    """Return the clips that a list names.

    `caption_column` is the caption's column or key; None finds it. Raises DataError with file and line for a list that
    cannot be read.
    """
    if path.name == VIDEOS:
        if caption_column is not None:
            raise DataError(f"{CAPTION_KEY} is {caption_column}, and {path} has no columns; leave {CAPTION_KEY} out")
        return _paired(path, path.with_name(PROMPTS))
    rows = list(_csv_rows(path) if path.suffix == ".csv" else _json_rows(path))
    if not rows:
        raise DataError(f"list {path} names no clip; write a line for each")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    file = _column(columns, FILE_COLUMNS, path)
    captions = (caption_column,) if caption_column is not None else CAPTION_COLUMNS
    caption = _column(columns, captions, path)
    entries = [Entry(_text(row, file, where), _text(row, caption, where), where) for where, row in rows]
    unnamed = next((entry for entry in entries if not entry.file.strip()), None)
    if unnamed is not None:
        raise DataError(f"{unnamed.where}: {file} is empty; name the clip's file")
    return entries


def _paired(videos: Path, prompts: Path) -> list[Entry]:
    """Return the clips of a list of files, with the captions in the same lines of another."""
    if not prompts.is_file():
        raise DataError(f"{videos} stands without {prompts.name}; write the captions there, a line for each clip")
    files, captions = (_without_blank_end(lines(read_text(path))) for path in (videos, prompts))
    if len(files) != len(captions):
        raise DataError(f"{videos} has {len(files)} lines, {prompts.name} {len(captions)}; line n of one belongs to "
                        "line n of the other, so give both as many")
    entries = []
    for number, (file, caption) in enumerate(zip(files, captions, strict=True), 1):
        if file.strip():
            entries.append(Entry(file.strip(), caption, f"{videos}, line {number}"))
        elif caption.strip():
            raise DataError(f"{videos}, line {number} is blank, but the same line of {prompts.name} is not; name the "
                            "clip there, or remove the line from both")
    return entries


def _without_blank_end(given: list[str]) -> list[str]:
    last = max((number for number, line in enumerate(given, 1) if line.strip()), default=0)
    return given[:last]


def _csv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    text = read_text(path)
    header = lines(text)[:1]
    separator = max(SEPARATORS, key=lambda mark: sum(line.count(mark) for line in header))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    columns: list[str] | None = None
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if columns is None:
                columns = [name.strip() for name in row]
                if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
                    raise DataError(f"{where}: two columns are named {twice[0]}; rename one of them")
                continue
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                raise DataError(f"{where} has {len(row)} columns and the header has {len(columns)}; put a caption that "
                                f"has a {separator!r} into quotation marks")
            yield where, dict(zip(columns, row, strict=True))
    except csv.Error as problem:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV table ({problem})") from problem


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(lines(read_text(path)), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"{where}: not JSON ({problem}); write one object a line") from problem
        if not isinstance(row, dict):
            raise DataError(f'{where}: not an object; write {{"file_name": …, "text": …}}')
        if any(isinstance(value, str) and not _is_text(value) for value in row.values()):
            raise DataError(f"{where}: half a character of two, as of a cut emoji; correct the text")
        yield where, row


def _is_text(value: str) -> bool:
    return value.encode(errors="replace").decode() == value


def _column(columns: Sequence[str], wanted: Sequence[str], path: Path) -> str:
    found = [name for name in wanted if name in columns]
    if not found:
        raise DataError(f"{path} has no {' or '.join(wanted)}; its columns are {listed(columns, 8) or 'missing'}")
    if len(found) > 1 and wanted is CAPTION_COLUMNS:
        raise DataError(f"{path} has {' and '.join(found)}; say with {CAPTION_KEY} which one is the caption")
    return found[0]


def _text(row: Mapping, column: str, where: str) -> str:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {column} is {_short(value)}, not text; write one text")
    return value or ""


def _short(value) -> str:
    return f"{json.dumps(value, ensure_ascii=False)[:40]} (a {type(value).__name__})"
