"""The plan of `sat/`: its rooms in order, imports that go down, and what no module may do."""
import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.source_tree import ROOT, SOURCE, TESTS, is_package, modules, nodes, parse, place

DOCUMENT = ROOT / "docs/architecture.md"
# The packages and single modules directly below sat/, the lowest first. Each may import itself and those before it.
ROOMS = ("common", "configuration", "parallel", "media", "weights", "sgm", "network", "dit_video_concat", "vae_modules",
         "memory", "engine", "diffusion_video", "arguments", "inference", "dry_run", "data_video", "training")
# Diffusion itself knows of no network and no file.
SGM_MAY_IMPORT = ("common", "configuration.targets", "parallel", "sgm")
OF_FILES = {"io", "json", "omegaconf", "os", "pathlib", "safetensors", "shutil", "tempfile", "transformers", "yaml"}
MOST_FILES_BELOW_SAT = 8
LONGEST_FUNCTION = 50
VAGUE_STARTS = ("Of", "As", "By", "Where", "Whether", "How", "What", "In", "For")
MOST_VAGUE_DOCSTRINGS = 0


def imports() -> Iterator[tuple[str, str, ast.AST]]:
    """Importing module, imported module of this project, and the statement: wherever it stands in the file."""
    for module, node in nodes(ast.Import, ast.ImportFrom):
        assert not getattr(node, "level", 0), f"{place(module, node)}: a relative import; name the module in full"
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [name if (name := f"{node.module}.{alias.name}") in modules() else node.module
                     for alias in node.names]
        for name in names:
            if name in modules():
                yield module, name, node


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_file_is_in_a_room():
    assert {room(module) for module in modules()} == set(ROOMS)


def test_the_document_lists_the_rooms_in_this_order():
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Rooms")[2]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == ROOMS


def test_what_the_document_places_in_a_file_is_there():
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    placed = re.findall(r"`([A-Za-z_.]+)` (?:in|of) `(sat/[\w/]+\.py)`", text)
    assert len(placed) > 10
    missing = [f"{name} in {path}" for name, path in placed
               if not set(name.split(".")) <= {node.name for node in ast.walk(parse(ROOT / path))
                                               if isinstance(node, ast.ClassDef | ast.FunctionDef)}]
    assert not missing, missing


def test_imports_go_down():
    upward = [f"{place(module, node)}: {room(module)} imports {name}, which is above it"
              for module, name, node in imports() if ROOMS.index(room(name)) > ROOMS.index(room(module))]
    assert not upward, "\n".join(upward)


def test_diffusion_knows_nothing_of_networks_and_files():
    others = [f"{place(module, node)}: {module} imports {name}" for module, name, node in imports()
              if room(module) == "sgm" and not any(f"{name}.".startswith(f"{free}.") for free in SGM_MAY_IMPORT)]
    others += [f"{place(module, node)}: {ast.unparse(node)}" for module, node in nodes(ast.Import, ast.ImportFrom)
               if room(module) == "sgm" and OF_FILES & {room(getattr(node, "module", "") or alias.name)
                                                        for alias in node.names}]
    assert not others, "\n".join(others)


def test_no_files_import_each_other_in_a_circle():
    graph = defaultdict(set)
    for module, name, _ in imports():
        graph[module].add(name)
    circle = find_circle(graph)
    assert not circle, " -> ".join(circle)


@pytest.mark.parametrize(("graph", "circle"), [
    ({"a": {"b"}, "b": {"c"}}, []),
    ({"a": {"b", "c"}, "b": {"c"}}, []),
    ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
    ({"a": {"a"}}, ["a", "a"]),
])
def test_a_circle_is_found_and_named(graph, circle):
    assert find_circle(graph) == circle


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, the first again at the end; [] where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module):], module]
        if module in done:
            return []
        for name in sorted(graph.get(module, ())):
            if circle := walk(name, [*path, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := walk(module, []))), [])


def test_few_files_stand_outside_the_packages():
    assert len(list(SOURCE.glob("*.py"))) <= MOST_FILES_BELOW_SAT


def test_no_script_is_named_as_a_module_of_python():
    """A script's own folder comes first on its path, so such a file would take the module's place in all libraries."""
    scripts = [path for folder in (".", ".ci", "benchmarks", "tools") for path in (ROOT / folder).glob("*.py")]
    assert len(scripts) > 40
    assert not [path for path in scripts if path.stem in sys.stdlib_module_names]


def test_every_package_says_in_one_line_what_it_holds():
    folders = {path.parent for path in SOURCE.rglob("*.py")} - {SOURCE}
    for folder in folders:
        module = ".".join(folder.relative_to(SOURCE).parts)
        assert is_package(module) and module in modules(), f"{folder} has no __init__.py"
        text = ast.get_docstring(modules()[module])
        assert text and "\n" not in text, f"{place(module, modules()[module])}: one line that says what it holds"


def test_functions_are_short():
    long = [f"{place(module, node)}: {node.name} has {lines} lines"
            for module, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef)
            if (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION]
    assert not long, "\n".join(long)


def test_docstrings_say_what_a_thing_is_or_does():
    vague = [f"{place(module, node)}: {text.splitlines()[0]}"
             for module, node in nodes(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
             if (text := ast.get_docstring(node)) and text.split()[0].strip(",.:") in VAGUE_STARTS]
    assert len(vague) <= MOST_VAGUE_DOCSTRINGS, f"{len(vague)}:\n" + "\n".join(vague)


def test_the_library_prints_nothing():
    prints = [place(module, node) for module, node in nodes(ast.Call)
              if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert not prints, f"use a logger: {prints}"


def test_no_kind_of_accelerator_is_named():
    found = [str(path) for path in SOURCE.rglob("*.py") if "cuda" in path.read_text(encoding="utf-8").lower()]
    assert not found, f"ask torch.accelerator: {found}"


@pytest.mark.parametrize("name", [name for name in ROOMS if is_package(name)])
def test_every_room_has_quick_tests(name):
    assert any(quick_tests(parse(path)) for path in (TESTS / name).rglob("test_*.py"))


def quick_tests(file: ast.Module) -> list[str]:
    """The tests of a file that neither they nor the file mark as slow."""
    if any(isinstance(node, ast.Assign) and ast.unparse(node) == "pytestmark = pytest.mark.slow" for node in file.body):
        return []
    return [node.name for node in file.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            and "pytest.mark.slow" not in map(ast.unparse, node.decorator_list)]


def test_sampling_starts_without_the_compiler_and_the_plan():
    """Each of them takes as long to import as the rest beside torch."""
    command = ("import sys, sample_video\n"
               "print([name for name in ('torch._dynamo', 'dry_run', 'deepspeed') if name in sys.modules])")
    told = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]", told.stdout
