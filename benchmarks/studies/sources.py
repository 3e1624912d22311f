"""Digests of the source that a class depends on, followed definition by definition through modules that are no library.

A definition counts with everything that it names: bases, functions, constants, imports, files beside its module, and
classes that a string names by their dotted path. What a module does when it is imported counts too, for it may change
anything. Comments and docstrings do not count, nor do definitions that nothing here names, so that a class added to a
file changes no other class's digest.
"""
import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.studies.contents import content_of
from benchmarks.studies.modules import (
    EVERYTHING,
    IMPORTED,
    Module,
    Name,
    imports_of,
    is_docstring,
    read_module,
)
from common.files import REPOSITORY
from configuration.targets import real_path

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
RULES = "configuration"  # its strings say which classes may be named, and use none of them
# What finds definitions by names made while it runs: all of its module counts.
SEARCHES = re.compile(r"globals|sys\.modules(\..*)?|(.*\.)?__subclasses__")
IMPORTERS = ("__import__", "import_module", "importlib.import_module")
LONGEST_PATH = 200  # characters of a text that may name a file


@dataclass
class Reached:
    """What some definitions depend on: statements by their module, files, and libraries by their top-level name."""

    statements: set[tuple[str, str]] = field(default_factory=set)
    files: set[Path] = field(default_factory=set)
    libraries: set[str] = field(default_factory=set)

    def digests(self) -> dict[str, str]:
        """Return a digest for each module, of its statements, and for each name of files, of their contents."""
        texts: dict[str, list[str]] = {}
        for module, statement in self.statements:
            texts.setdefault(module, []).append(statement)
        for file in self.files:
            texts.setdefault(file.name, []).append(content_of(file))
        return {name: hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
                for name, parts in sorted(texts.items())}


def digests(names: Iterable[Name]) -> dict[str, str]:
    """Return the digests of what these definitions depend on."""
    return reached(names).digests()


def reached(names: Iterable[Name]) -> Reached:
    """Return everything that these definitions depend on."""
    found, waiting, seen, entered = Reached(), list(names), set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        module = read_module(name[0])
        if module is None:
            found.libraries.update(_library(name[0]))
            continue
        statements = _statements(module, name[1])
        if name[0] not in entered:
            entered.add(name[0])
            statements = [*statements, *module.acting]
            waiting += [(one, IMPORTED) for one in (*module.imports, *_packages(name[0]))]
        for statement in statements:
            found.statements.add((name[0], _text(statement)))
            found.files.update(_files(statement, module.path.parent))
            waiting += _used(statement, name[0], module)
        if name[1] in module.imported:
            waiting.append(module.imported[name[1]])
        elif name[1] not in module.bound:
            waiting += [(starred, name[1]) for starred in module.starred]
    return found


def _statements(module: Module, name: str) -> list[ast.stmt]:
    """Return the statements that bind a name, or those with which a module answers to names that it does not have."""
    if name == EVERYTHING:
        return [statement for statements in module.bound.values() for statement in statements]
    return module.bound.get(name, module.bound.get("__getattr__", []) if name not in module.imported else [])


def _packages(module: str) -> Iterator[str]:
    """Yield the packages around a module, which are imported with it."""
    while module := module.rpartition(".")[0]:
        yield module


def _library(module: str) -> set[str]:
    """Return the top-level name of a library, unless it is Python's own."""
    top = module.partition(".")[0]
    return {top} - sys.stdlib_module_names - {""}


@cache
def _used(statement: ast.stmt, where: str, module: Module) -> tuple[Name, ...]:
    """Return what a statement names: in its own module, by imports at its top or its own, and by dotted strings."""
    own = imports_of(statement, module.package)
    imports = {**module.imported, **own}
    found: list[Name] = [(name[0], IMPORTED) for name in own.values()]
    found += [(where, EVERYTHING)] if _searches(statement) else []
    for dotted in _dotted_names(statement):
        first, *rest = dotted.split(".")
        longest = max((name for name in imports if dotted == name or dotted.startswith(f"{name}.")), default=None,
                      key=len)
        if longest is not None:
            target = imports[longest]
            after = dotted[len(longest) + 1:].split(".")[0]
            found.append((target[0], after) if target[1] == EVERYTHING and after else target)
        elif first in module.bound or module.starred:
            found.append((where, first))
    if not f"{where}.".startswith(f"{RULES}."):
        found += [tuple(real_path(text).rsplit(".", 1)) for text in _texts(statement) if DOTTED.fullmatch(text)]
    return (*found, *((text, EVERYTHING) for text in _imported_by_call(statement)))


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield every text in a tree."""
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _imported_by_call(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported by name, as by importlib.import_module("name")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS and node.args:
            yield from _texts(node.args[0])


def _dotted_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that is read, with the attributes that follow it: `groups.leads_copy`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        parts, base = [], node
        while isinstance(base, ast.Attribute):
            parts.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            yield ".".join([base.id, *reversed(parts)])
        else:
            waiting += ast.iter_child_nodes(base)


def _searches(statement: ast.stmt) -> bool:
    """Return True if a statement finds definitions by what they are called or derived from."""
    return (any(SEARCHES.fullmatch(dotted) for dotted in _dotted_names(statement))
            or any(isinstance(node, ast.FunctionDef) and node.name == "__init_subclass__"
                   for node in ast.walk(statement)))


@cache
def _files(statement: ast.stmt, beside: Path) -> frozenset[Path]:
    """Return the files that a statement's texts name, beside its module, or with a slash from here or the repository.

    Texts that a / joins count together, as in folder / "data" / "table.txt".
    """
    joined = ["/".join(_joined(node)) for node in ast.walk(statement) if isinstance(node, ast.BinOp)]
    found: set[Path] = set()
    for text in {*_texts(statement), *joined}:
        if 0 < len(text) <= LONGEST_PATH and text.isprintable() and {".", "/"} & set(text):
            roots = (beside, *((Path(), REPOSITORY) if "/" in text else ()))
            found |= {(root / text).resolve() for root in roots if (root / text).is_file()}
    return frozenset(path for path in found if path.suffix != ".py")


def _joined(tree: ast.expr) -> list[str]:
    """Return the texts that a / joins, from left to right."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Div):
        return _joined(tree.left) + _joined(tree.right)
    return [tree.value] if isinstance(tree, ast.Constant) and isinstance(tree.value, str) else []


@cache
def _text(statement: ast.stmt) -> str:
    """Return a statement's source without comments and docstrings."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and is_docstring(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(statement)
