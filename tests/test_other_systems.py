"""Tests of what sampling needs on other systems than Linux on x86-64: packages, Python's modules, encodings."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.resolve_requirements import ROOT, SYSTEMS
from tests.source_tree import COMMANDS, parse

ABSENT = ("triton", "decord", "deepspeed", "wandb", "tensorboardX", "datasets", "cpm_kernels", "boto3")
UNIX_ALONE = {"fcntl", "resource", "pwd", "grp", "termios", "syslog", "posix"}
HERE = {"sys_platform": "linux", "platform_machine": "x86_64"}
NO_INDEX = "connection broken by|Could not fetch URL|Temporary failure in name resolution"
# Hides the packages from every search for them, as where they are not installed.
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, path=None, target=None: (
    None if name.partition(".")[0] in {ABSENT} else find(name, path, target)))
import sample_video
code = sample_video.main(sys.argv[1:])
import train_video
from common.console import run
assert not set(sys.modules) & set({ABSENT}), "hidden"
words = ["--base", "configs/tiny_t2v.yaml", "configs/tiny_t2v_train.yaml", "--plan"]
sys.exit(code or 10 * run(lambda argv: train_video.train_video(words)))
"""


def requirements(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def wanted(markers) -> set[str]:
    return {found.name for found in requirements("requirements.txt")
            if found.marker is None or found.marker.evaluate(dict(markers))}


def test_here_everything_is_required():
    assert wanted(HERE) == {found.name for found in requirements("requirements.txt")}


@pytest.mark.parametrize("name", SYSTEMS)
def test_elsewhere_nothing_without_wheels_is_required(name):
    assert wanted(HERE) - wanted(SYSTEMS[name].markers) == {
        "SwissArmyTransformer", "decord", "deepspeed", "triton", "wandb"}


def test_both_files_name_the_same_version():
    alone, = requirements("requirements-nodeps.txt")
    assert alone.specifier == next(found.specifier for found in requirements("requirements.txt")
                                   if found.name == alone.name)


@pytest.fixture(scope="module")
def resolutions():
    """What pip answers for every system, asked at the same time."""
    runs = {name: subprocess.Popen([sys.executable, str(ROOT / "tests/resolve_requirements.py"), name], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for name in SYSTEMS}
    return {name: (run.communicate(timeout=900)[0], run.returncode) for name, run in runs.items()}


@pytest.mark.index
@pytest.mark.parametrize("name", SYSTEMS)
def test_requirements_resolve_from_wheels_alone(resolutions, name):
    said, code = resolutions[name]
    if code and re.search(NO_INDEX, said):
        pytest.skip("no package index answers")
    assert code == 0, said[-3000:]
    chosen = said.rpartition("chosen: ")[2].lower().replace("_", "-")
    for found in requirements("requirements.txt"):
        if found.name in wanted(SYSTEMS[name].markers):
            version, = (one.version for one in found.specifier)
            assert f"{found.name}-{version}-".lower().replace("_", "-") in chosen
    assert "swissarmytransformer" in chosen and "deepspeed" not in chosen and "decord" not in chosen


@pytest.mark.slow
def test_sampling_needs_no_package_that_other_systems_lack(small_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "--base", str(small_model / "t2v.yaml"), "configs/inference.yaml",
         "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / "out"), "--num-frames", "9"],
        cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert list((tmp_path / "out").rglob("000000.mp4")), done.stderr[-2000:]
    assert done.returncode == 20, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1] == (
        "error: training needs DeepSpeed, which is not installed: pip install deepspeed, in the version that "
        "requirements.txt names")


def files() -> list[Path]:
    return [ROOT / name for name in COMMANDS] + [path for folder in ("sat", "cogvideo", "tools")
                                                 for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_module_is_imported_that_windows_lacks():
    found = [f"{path}:{node.lineno}" for path in files() for node in ast.walk(parse(path))
             if isinstance(node, ast.Import | ast.ImportFrom)
             and UNIX_ALONE & {name.partition(".")[0] for name in (getattr(node, "module", None) or "",
                                                                   *(alias.name for alias in node.names))}]
    assert not found, found


def test_texts_name_their_encoding():  # Windows would take its own
    found = [f"{path.relative_to(ROOT)}:{call.lineno}" for path in files() for call in ast.walk(parse(path))
             if isinstance(call, ast.Call) and is_text(call) and "encoding" not in {key.arg for key in call.keywords}]
    assert not found, found


def is_text(call: ast.Call) -> bool:
    """Whether a call reads or writes a file as text."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in ("read_text", "write_text")
    mode = [word.value for word in [*call.args[1:2], *(key.value for key in call.keywords if key.arg == "mode")]
            if isinstance(word, ast.Constant)]
    return isinstance(call.func, ast.Name) and call.func.id == "open" and "b" not in "".join(map(str, mode))
