"""Keys of cells, so that a result is used again only for the configuration, code, weights and versions that made it."""
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from benchmarks.studies import modules
from benchmarks.studies.base import Problem
from benchmarks.studies.contents import content_of
from benchmarks.studies.grid import Cell, Study, VariantCell
from benchmarks.studies.modules import EVERYTHING, Name
from benchmarks.studies.outside import faults_outside
from benchmarks.studies.sources import DOTTED, reached
from common.files import REPOSITORY
from configuration.targets import real_path

PACKAGES = ("torch", "numpy", "SwissArmyTransformer", "transformers", "av")
DIGITS = 12  # of a key in the name of a folder
BUILT_BY = ("benchmarks.studies.cost", "build_sampler")  # the samplers of cells
LONGEST = 150  # bytes of a cell's name in it
# Keys of a model's configuration that no result depends on.
NOT_READ = ("output_dir", "save", "input_file", "experiment_name", "latent_cache", "folder")
OF_PATHS = ("load", "path", "dir", "data", "model", "base")  # ends of keys whose values name a folder also as one word


def places_of(parts: Mapping[Cell | VariantCell, dict], folder: Path) -> dict[Cell | VariantCell, Path]:
    """Return the place below `folder` of each cell, a folder whose name ends with the cell's key."""
    return {cell: folder / f"{_readable(cell)} {digest(of_cell)[:DIGITS]}" for cell, of_cell in parts.items()}


def key_parts(study: Study, problem: Problem) -> dict[Cell | VariantCell, dict]:
    """Return what each cell's key is made of: configuration, digests of source by module, and versions.

    Files that a configuration names stand in it as digests of their content.
    """
    own = _class_name(type(problem))
    given = content({key: value for key, value in study.problem.items() if key != "folder"}, ())
    found: dict[Cell | VariantCell, dict] = {}
    for cell in study.cells():
        part = study.config(cell)
        with faults_outside(f"{cell}: what it needs"):
            needs, part = content(problem.needs(part)), content(part, ())
        names = {own, BUILT_BY, *named(part), *named(given), *targets(needs)}
        found[cell] = {"configuration": {"cell": asdict(cell), "problem": given, "part": part, "needs": needs},
                       **_sources(frozenset(names))}
    return found


def key_of_parts(trees: Iterable[Any], modules: Iterable[str] = ()) -> dict:
    """Return the digests of source of all targets in configurations and of whole modules, and the versions."""
    names = {*((module, EVERYTHING) for module in modules), *(name for tree in trees for name in targets(tree))}
    return dict(_sources(frozenset(names)))


def digest(tree: Any) -> str:
    """Return the SHA-256 of a tree of plain values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()


def content(tree: Any, left_out: Sequence[str] = NOT_READ, key: str = "") -> Any:
    """Return a tree in which each path of a file or folder that exists has become a digest of what it holds.

    The keys `left_out` are not in it. `key` is the one that the tree stands at.
    """
    if isinstance(tree, Mapping):
        return {str(name): content(value, left_out, str(name)) for name, value in tree.items() if name not in left_out}
    if isinstance(tree, list | tuple):
        return [content(value, left_out, key) for value in tree]
    if isinstance(tree, str) and len(tree) < 1000 and tree.isprintable():
        path = next((path for path in (Path(tree), REPOSITORY / tree) if _is_path(tree, key, path)), None)
        return tree if path is None else content_of(path.resolve())
    return tree


def _is_path(text: str, key: str, path: Path) -> bool:
    """Return True if a text with a slash, or at a key of paths, names this file or folder, or with a dot this file."""
    if "/" in text or text and key.endswith(OF_PATHS):
        return path.exists()
    return "." in text and path.is_file()


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
def _sources(names: frozenset[Name]) -> Mapping[str, Mapping[str, str]]:
    """Return the digests of source that these definitions depend on, and the versions of the libraries they use."""
    found = reached(names)
    return {"sources": found.digests(), "versions": _versions(found.libraries)}


def forget() -> None:
    """Read source and files again when they are asked for, since they may have changed."""
    modules.forget()
    _sources.cache_clear()
    content_of.cache_clear()


def _class_name(cls: type) -> Name:
    return cls.__module__, cls.__qualname__


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of `PACKAGES`, and of what the libraries of these top-level names came with."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    came_with = _distributions()
    for package in sorted({*PACKAGES, *(name for library in libraries for name in came_with.get(library, ()))}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _readable(cell: Cell | VariantCell) -> str:
    """Return a cell's name as part of a file's name."""
    return str(cell).replace("/", "_").encode()[:LONGEST].decode(errors="ignore")
