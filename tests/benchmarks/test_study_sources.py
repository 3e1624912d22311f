"""Tests of what a class's source depends on: whatever changes what it computes changes its digest, and nothing else."""
import importlib

import pytest

from benchmarks.studies import keys
from benchmarks.studies.sources import digests

MINE = "class Mine:\n    def step(self, x):\n        return {}\n"
HELPER = "def f(x):\n    return x * 2\n"
TABLE = "R = {}\ndef keep(f):\n    R[f.__name__] = f\n    return f\n@keep\ndef f(x):\n    return x * 2\n"


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """A function that says whether the digest of their_own.Mine changes with a text in these files."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest_of(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        importlib.invalidate_caches()
        keys.forget()
        return digests([("their_own", "Mine")])

    def changed(files, old, new):
        assert any(old in text for text in files.values())
        return digest_of(files) != digest_of({name: text.replace(old, new) for name, text in files.items()})
    yield changed
    keys.forget()


def own(body, before="", after=""):
    return {"their_own.py": before + MINE.format(body) + after}


@pytest.mark.parametrize("files", [
    {**own("their_helper.f(x)", "import their_helper\n"), "their_helper.py": HELPER},
    {**own('getattr(their_helper, "f")(x)', "import their_helper\n"), "their_helper.py": HELPER},
    {**own('__import__("their_helper").f(x)'), "their_helper.py": HELPER},
    {**own('import_module("their_package.help").f(x)', "from importlib import import_module\n"),
     "their_package/__init__.py": "", "their_package/help.py": HELPER},
    {**own("f(x)", "from their_package import f\n"), "their_package/__init__.py": "from .help import f\n",
     "their_package/help.py": HELPER},
    {**own("f(x)", "from their_package.help import f\n"), "their_package/help.py": HELPER.replace("2", "K"),
     "their_package/__init__.py": "import their_package.help\ntheir_package.help.K = x * 2\n"},
    {**own("x", "import their_patches\n"), "their_patches.py": "from sgm.sampling import Sampler\nSampler.k = x * 2\n"},
    {**own("f(x)", "from their_helper import f\n"), "their_helper.py": HELPER.replace("def f", "def __getattr__")},
    own('T["f"] * x', "T = {}\nfor x in (1, 2):\n    T[x] = x * 2\n"),
    own("x", after="for name in ('k',):\n    setattr(Mine, name, lambda x: x * 2)\n"),
    own("x", "import contextlib\n", "with contextlib.suppress(OSError) as c:\n    Mine.k = lambda x: x * 2\n"),
    own('R["f"](x)', TABLE),
    {**own('R["f"](x)', "from their_helper import R\n"), "their_helper.py": TABLE},
    own('globals()["f"](x)', HELPER),
    own('getattr(sys.modules[__name__], "f")(x)', "import sys\n" + HELPER),
    own("P.__subclasses__()[0].f(x)", "class P:\n    pass\nclass Q(P):\n    def f(x):\n        return x * 2\n"),
    own('P.ALL["Q"].f(x)', "class P:\n    ALL = {}\n    def __init_subclass__(c):\n        P.ALL[c.__name__] = c\n"
                           "class Q(P):\n    def f(x):\n        return x * 2\n"),
    {**own('Path(__file__).with_name("numbers.txt")', "from pathlib import Path\n"), "numbers.txt": "x * 2"},
    {**own('Path(__file__).parent / "their" / "numbers.txt"', "from pathlib import Path\n"),
     "their/numbers.txt": "x * 2"},
])
def test_what_changes_the_computation_changes_the_digest(changes, files):
    assert changes(files, "x * 2", "x * 3")


@pytest.mark.parametrize("files", [
    own("x", '"""About x * 2."""\n# x * 2\n'),
    {**own("x", "import their_helper\n"), "their_helper.py": HELPER},
    own("x", after="class Other(Mine):\n    def step(self, x):\n        return x * 2\n"),
    own("x", "from dataclasses import dataclass\n", "@dataclass\nclass Other(Mine):\n    k: int = len('x * 2')\n"),
    own("x", after='if __name__ == "__main__":\n    print("x * 2")\n'),
])
def test_what_is_not_used_does_not_count(changes, files):
    assert not changes(files, "x * 2", "x * 3")


def test_versions_of_the_libraries_that_a_class_uses_count(changes, tmp_path, monkeypatch):
    changes(own("yaml.safe_load(x)", "import yaml\n"), "x", "x")
    before = keys.key_of_parts(({"target": "their_own.Mine"},))
    monkeypatch.setattr(keys, "version", lambda package: "another" if package == "PyYAML" else "1")
    keys.forget()
    assert keys.key_of_parts(({"target": "their_own.Mine"},))["versions"]["PyYAML"] == "another"
    assert "PyYAML" in before["versions"] and "gradio" not in before["versions"]
