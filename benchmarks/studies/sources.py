"""Digests of the source that a class depends on, followed definition by definition through modules that are no library.

A definition counts with everything that it names: bases, functions, constants, imports, and classes that a string
names by their dotted path. Comments and docstrings do not count, nor do definitions that nothing here names, so that a
class added to a file changes no other class's digest.
"""
import ast
import hashlib
import importlib.util
import re
import site
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import DataError
from configuration.targets import real_path

LIBRARIES = {Path(path).resolve() for path in (*sysconfig.get_paths().values(), *site.getsitepackages())}
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
RULES = "configuration"  # its strings say which classes may be named, and use none of them
Name = tuple[str, str]  # a module, and what one of its statements binds; EVERYTHING: all of them
EVERYTHING = "*"


@dataclass(frozen=True)
class Module:
    """The top-level statements of a module by what they bind, those that bind nothing, and what imports bind.

    `package` is where its relative imports begin, `starred` are the modules of which it imports all names.
    """

    package: str
    bound: Mapping[str, list[ast.stmt]]
    loose: list[ast.stmt]
    imported: Mapping[str, Name]
    starred: Sequence[str]


def digests(names: Iterable[Name]) -> dict[str, str]:
    """Return a digest for each module of this project, or beside it, of what these definitions depend on in it."""
    found = _reached(names)
    texts: dict[str, list[str]] = {}
    for module, statement in found:
        texts.setdefault(module, []).append(statement)
    return {module: hashlib.sha256("\n".join(sorted(set(parts))).encode()).hexdigest()
            for module, parts in sorted(texts.items())}


def _reached(names: Iterable[Name]) -> set[tuple[str, str]]:
    """Return (module, text of a statement) of everything that the names depend on."""
    found: set[tuple[str, str]] = set()
    waiting, seen, entered = list(names), set(), set()
    while waiting:
        name = waiting.pop()
        module = read_module(name[0])
        if name in seen or module is None:
            continue
        seen.add(name)
        statements = _statements(module, name[1])
        loose = [] if name[0] in entered else module.loose
        entered.add(name[0])
        for statement in [*statements, *loose]:
            found.add((name[0], _text(statement)))
            waiting += _used(statement, name[0], module)
        if name[1] in module.imported:
            waiting.append(module.imported[name[1]])
        elif not statements or name[1] == EVERYTHING:
            waiting += [(starred, name[1]) for starred in module.starred]
    return found


def _statements(module: Module, name: str) -> list[ast.stmt]:
    if name == EVERYTHING:
        return [statement for statements in module.bound.values() for statement in statements]
    return module.bound.get(name, [])


@cache
def read_module(name: str) -> Module | None:
    """Return the definitions of a module; None for a library's. Raises DataError if it is no Python."""
    path = file_of(name)
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Python ({error})") from error
    bound: dict[str, list[ast.stmt]] = {}
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    loose, imported = [], {}
    for statement in tree.body:
        given = _imports(statement, package)
        imported.update(given)
        names = [*_bindings(statement)]
        for one in names:
            bound.setdefault(one, []).append(statement)
        if not names and not given and not _is_docstring(statement):
            loose.append(statement)
    starred = [module for bound_as, (module, _) in imported.items() if bound_as.startswith("*")]
    return Module(package, bound, loose, imported, starred)


@cache
def file_of(name: str) -> Path | None:
    """Return the file of a module, None if it is built in, a library's, or none at all; nothing is imported."""
    top, *rest = name.split(".")
    for root in _roots(top):
        base = root.joinpath(*rest)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file() and not any(path.is_relative_to(library) for library in LIBRARIES):
                return path
    return None


@cache
def _roots(top: str) -> tuple[Path, ...]:
    """Return the places of a top-level module: its folders, or its file without the suffix."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(Path(place).resolve() for place in spec.submodule_search_locations)
    return (Path(spec.origin).resolve().with_suffix(""),) if spec.origin and spec.has_location else ()


def _bindings(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, other than by an import."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _imports(tree: ast.AST, package: str) -> dict[str, Name]:
    """Return what the imports in a tree bind; a module itself is (module, EVERYTHING), and `*` is bound as *module."""
    found: dict[str, Name] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, EVERYTHING) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                bound_as = f"*{module}" if alias.name == "*" else alias.asname or alias.name
                found[bound_as] = (module, alias.name) if file_of(whole) is None else (whole, EVERYTHING)
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that an import names, which may be relative to a package."""
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[:len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _used(statement: ast.stmt, where: str, module: Module) -> list[Name]:
    """Return what a statement names: in its own module, by imports at its top or its own, and by dotted strings."""
    imports = {**module.imported, **_imports(statement, module.package)}
    found = []
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
        texts = [node.value for node in ast.walk(statement)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found += [tuple(real_path(text).rsplit(".", 1)) for text in texts if DOTTED.fullmatch(text)]
    return found


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


@cache
def _text(statement: ast.stmt) -> str:
    """Return a statement's source without comments and docstrings."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_docstring(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(statement)


def _is_docstring(statement: ast.stmt) -> bool:
    return (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str))
