"""Modules that are no library, as statements: what each binds, what it does when it is imported, and what it imports.

Nothing is imported here: files are found by Python's rules, and read.
"""
import ast
import importlib.util
import site
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import DataError

LIBRARIES = {Path(path).resolve() for path in (*sysconfig.get_paths().values(), *site.getsitepackages())}
Name = tuple[str, str]  # a module, and what one of its statements binds; EVERYTHING: all of them; IMPORTED: none
EVERYTHING, IMPORTED = "*", ""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
INERT = (ast.Import, ast.ImportFrom, ast.Pass, ast.Global)  # nothing but names follow from them
MAIN = "__name__ == '__main__'"


@dataclass(frozen=True, eq=False)
class Module:
    """The top-level statements of a module by what they bind, those that act when it is imported, and its imports.

    `package` is where its relative imports begin, `starred` are the modules of which it imports all names, `imports`
    those that Python imports with it.
    """

    path: Path
    package: str
    bound: Mapping[str, list[ast.stmt]]
    acting: list[ast.stmt]
    imported: Mapping[str, Name]
    starred: Sequence[str]
    imports: Sequence[str]


@cache
def read_module(name: str) -> Module | None:
    """Return the statements of a module; None for a library's. Raises DataError if it is no Python."""
    path = file_of(name)
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Python ({error})") from error
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    bound: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for one in _bindings(statement):
            bound.setdefault(one, []).append(statement)
    imported = imports_of(tree, package)
    acting = [statement for statement in tree.body if _acts(statement, bound, imported)]
    starred = [module for bound_as, (module, _) in imported.items() if bound_as.startswith("*")]
    at_once = imports_of(ast.Module([*_at_import(tree)], []), package, deep=False)
    return Module(path, package, bound, acting, imported, starred, sorted({module for module, _ in at_once.values()}))


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


def forget() -> None:
    """Read all modules again when they are asked for, since their files may have changed."""
    for found in (read_module, file_of, _roots):
        found.cache_clear()


def _bindings(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, other than by an import."""
    if isinstance(statement, DEFINITIONS):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, DEFINITIONS):
            yield node.name


def _acts(statement: ast.stmt, bound: Mapping[str, list[ast.stmt]], imported: Mapping[str, Name]) -> bool:
    """Return True if a statement does something beside binding names: it calls, fills a table, sets an attribute, or
    gives a definition to a decorator that is no library's, which may keep it in a table."""
    if isinstance(statement, INERT) or is_docstring(statement):
        return False
    if isinstance(statement, DEFINITIONS):
        return any(_is_own(decorator, bound, imported) for decorator in statement.decorator_list)
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return not all(isinstance(node, ast.Name | ast.Tuple | ast.List | ast.Starred)
                       for target in targets for node in ast.walk(target) if not isinstance(node, ast.expr_context))
    inner = [node for node in ast.walk(statement) if isinstance(node, ast.stmt) and node is not statement]
    return not _is_main(statement) and (not inner or any(_acts(one, bound, imported) for one in inner))


def _is_own(decorator: ast.expr, bound: Mapping[str, list[ast.stmt]], imported: Mapping[str, Name]) -> bool:
    """Return True if a decorator is defined in this module, or in another one that is no library."""
    first = next((node.id for node in ast.walk(decorator) if isinstance(node, ast.Name)), "")
    return first in bound or first in imported and file_of(imported[first][0]) is not None


def _is_main(statement: ast.stmt) -> bool:
    """Return True for what a module does only as a script."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == MAIN


def is_docstring(statement: ast.stmt) -> bool:
    """Return True if a statement is nothing but a text."""
    return (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str))


def _at_import(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the imports that run when a module does, those inside functions and of scripts left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, FUNCTIONS) and not (isinstance(node, ast.stmt) and _is_main(node)):
            yield from _at_import(node)


def imports_of(tree: ast.AST, package: str, deep: bool = True) -> dict[str, Name]:
    """Return what the imports in a tree bind; a module itself is (module, EVERYTHING), and `*` is bound as *module.

    Without `deep` they are told apart by what they import, since several may bind one name.
    """
    found: dict[str, Name] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name if deep else alias.name: (alias.name, EVERYTHING)
                      for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                bound_as = f"*{module}" if alias.name == "*" else alias.asname or alias.name
                found[bound_as if deep else whole] = ((module, alias.name) if file_of(whole) is None
                                                      else (whole, EVERYTHING))
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that an import names, which may be relative to a package."""
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[:len(parts) - node.level + 1], *([node.module] if node.module else [])])
