"""The modules of `sat/` as syntax trees, for tests of how they are written."""
import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "sat"
TESTS = ROOT / "tests"
COMMANDS = ("sample_video.py", "train_video.py", "train_vae.py")


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name to tree; a package's name stands for its __init__.py."""
    return {_dotted(path): parse(path) for path in sorted(SOURCE.rglob("*.py"))}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_package(module: str) -> bool:
    return (SOURCE / module.replace(".", "/")).is_dir()


def place(module: str, node: ast.AST) -> str:
    """The file and line of a node, such as `sat/network/stack.py:12`."""
    path = module.replace(".", "/") + ("/__init__" if is_package(module) else "")
    return f"sat/{path}.py:{getattr(node, 'lineno', 1)}"


def nodes(*kinds: type) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds with its module's name."""
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield module, node


def _dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
