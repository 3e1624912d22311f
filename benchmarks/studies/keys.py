"""Keys of cells, so that a result is used again only for the configuration, code, weights and versions that made it."""
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.studies.base import Problem
from benchmarks.studies.grid import Cell, Study, VariantCell
from benchmarks.studies.sources import DOTTED, EVERYTHING, Name, digests
from common.files import REPOSITORY
from configuration.targets import real_path

PACKAGES = ("torch", "numpy", "SwissArmyTransformer", "transformers", "av")
DIGITS = 12  # of a key in the name of a folder
BUILT_BY = ("benchmarks.studies.cost", "build_sampler")  # the samplers of cells
LONGEST = 150  # bytes of a cell's name in it
# Keys of a model's configuration that no result depends on.
NOT_READ = ("output_dir", "save", "input_file", "experiment_name", "latent_cache", "folder")


def places_of(parts: Mapping[Cell | VariantCell, dict], folder: Path) -> dict[Cell | VariantCell, Path]:
    """Return the place below `folder` of each cell, a folder whose name ends with the cell's key."""
    return {cell: folder / f"{_readable(cell)} {digest(of_cell)[:DIGITS]}" for cell, of_cell in parts.items()}


def key_parts(study: Study, problem: Problem) -> dict[Cell | VariantCell, dict]:
    """Return what each cell's key is made of: configuration, digests of source by module, and versions.

    Files that a configuration names stand in it as digests of their content.
    """
    own, versions = _class_name(type(problem)), _versions()
    given = content({key: value for key, value in study.problem.items() if key != "folder"}, ())
    found: dict[Cell | VariantCell, dict] = {}
    for cell in study.cells():
        part = study.config(cell)
        needs, part = content(problem.needs(part)), content(part, ())
        names = {own, BUILT_BY, *named(part), *named(given), *targets(needs)}
        found[cell] = {"configuration": {"cell": asdict(cell), "problem": given, "part": part, "needs": needs},
                       "sources": _digests(frozenset(names)), "versions": versions}
    return found


def key_of_parts(trees: Iterable[Any], modules: Iterable[str] = ()) -> dict:
    """Return the digests of source of all targets in configurations and of whole modules, and the versions."""
    names = {*((module, EVERYTHING) for module in modules), *(name for tree in trees for name in targets(tree))}
    return {"sources": _digests(frozenset(names)), "versions": _versions()}


def digest(tree: Any) -> str:
    """Return the SHA-256 of a tree of plain values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()


def content(tree: Any, left_out: Sequence[str] = NOT_READ) -> Any:
    """Return a tree in which each path of a file or folder that exists has become a digest of what it holds.

    The keys `left_out` are not in it.
    """
    if isinstance(tree, Mapping):
        return {str(key): content(value, left_out) for key, value in tree.items() if key not in left_out}
    if isinstance(tree, list | tuple):
        return [content(value, left_out) for value in tree]
    if isinstance(tree, str) and len(tree) < 1000 and "\n" not in tree:
        path = next((path for path in (Path(tree), REPOSITORY / tree) if _is_path(tree, path)), None)
        return tree if path is None else _content_of(path.resolve())
    return tree


def _is_path(text: str, path: Path) -> bool:
    """Return True if a text with a slash or a dot names this file, or with a slash this folder."""
    return path.exists() if "/" in text else "." in text and path.is_file()


def targets(tree: Any) -> Iterator[Name]:
    """Yield (module, class) of every target in a configuration."""
    if isinstance(tree, Mapping):
        if isinstance(tree.get("target"), str):
            yield from named(tree["target"])
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from targets(value)


def named(tree: Any) -> Iterator[Name]:
    """Yield (module, class) of everything that a tree of plain values names by its dotted path."""
    if isinstance(tree, str) and DOTTED.fullmatch(tree):
        module, _, name = real_path(tree).rpartition(".")
        yield module, name
    elif isinstance(tree, Mapping | list | tuple):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from named(value)


@cache
def _digests(names: frozenset[Name]) -> dict[str, str]:
    return digests(names)


@cache
def _content_of(path: Path) -> str:
    """Return a digest of a file, or of the names and contents of all files below a folder."""
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith("."):
            whole.update(str(file.relative_to(path)).encode())
            with open(file, "rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    return f"sha256 {whole.hexdigest()}"


def _class_name(cls: type) -> Name:
    return cls.__module__, cls.__qualname__


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _readable(cell: Cell | VariantCell) -> str:
    """Return a cell's name as part of a file's name."""
    return str(cell).replace("/", "_").encode()[:LONGEST].decode(errors="ignore")
