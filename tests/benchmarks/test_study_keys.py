"""Tests of what a study solves again: changed classes, configurations and weights, and nothing else."""
import csv
import json
import sys

import pytest

from benchmarks.studies import keys
from benchmarks.studies.keys import content
from benchmarks.studies.sources import digests

PARTS = '''
"""Parts of a study that are outside this project."""
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.studies.base import Problem
from sgm.sampling import EulerEDMSampler

SOLVED = []


def factor():
    return {factor}


class Mine(EulerEDMSampler):
    """A sampler."""

    def step(self, x, now, then, run, state):
        x, denoised, state = super().step(x, now, then, run, state)
        return x * factor(), denoised, state


class Other(EulerEDMSampler):
    """Another."""


@dataclass(frozen=True, kw_only=True)
class Counting(Problem):
    """A problem whose error is the sampler's factor."""

    measures: ClassVar = ("error",)

    def solve(self, sampler, cell):
        SOLVED.append(cell.sampler)
        return {{"error": float(sampler.step.__code__.co_argcount) * factor()}}
'''
STUDY = {
    "question": "Which cells are solved again?",
    "problem": {"kind": "their_parts.Counting"},
    "samplers": {"mine": {"target": "their_parts.Mine"}, "other": {"target": "their_parts.Other"}},
    "schedules": {"ramp": {"target": "sgm.discretizer.EDMDiscretization"}},
    "grids": [{"steps": [4]}],
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A function that writes a module outside this project, as new to Python."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text):
        (tmp_path / "their_parts.py").write_text(text)
        sys.modules.pop("their_parts", None)
        keys.forget()
    write(PARTS.format(factor=1))
    yield write
    sys.modules.pop("their_parts", None)


@pytest.fixture
def solved(study, tmp_path):
    """A function that runs a study and returns the names of the samplers that were solved, and the errors by name."""
    def run(content=STUDY):
        assert study(content, "--allow-targets", "their_parts") == 0
        with open(tmp_path / "out/results.csv", newline="") as file:
            found = {row["sampler"]: float(row["error"]) for row in csv.DictReader(file)}
        names, sys.modules["their_parts"].SOLVED[:] = list(sys.modules["their_parts"].SOLVED), []
        return names, found
    return run


def test_a_problem_outside_this_project_is_solved_once_and_refused_without_leave(outside, solved, study, capsys):
    assert study(STUDY) == 2
    assert "may not be named" in capsys.readouterr().err
    assert solved() == (["mine", "other"], {"mine": 6, "other": 6})
    assert solved()[0] == []


def test_a_changed_class_is_solved_again_and_an_added_one_solves_no_other(outside, solved):
    solved()
    outside(PARTS.format(factor=1).replace("EulerEDMSampler):\n    \"\"\"Another.\"\"\"",
                                           "EulerEDMSampler):\n    s_churn: float = 2.0  # a comment"))
    assert solved()[0] == ["other"]
    outside((tmp := PARTS.format(factor=1)) + "\n\nclass Third(Mine):\n    \"\"\"A third.\"\"\"\n")
    names, _ = solved({**STUDY, "samplers": {**STUDY["samplers"], "third": {"target": "their_parts.Third"}}})
    assert names == ["third"]  # and what was solved for the first text of Other is still there
    outside(tmp.replace('"""Parts of', '"""All parts of'))
    assert solved()[0] == []


def test_what_a_class_calls_counts_too_and_the_change_is_told(outside, solved, caplog):
    solved()
    outside(PARTS.format(factor=2))
    with caplog.at_level("INFO"):
        names, found = solved()
    assert names == ["mine", "other"] and found["mine"] == 12  # the problem calls it
    assert "2 cells were solved before" in caplog.text and "sources.their_parts was" in caplog.text


def test_a_changed_configuration_adds_cells_and_going_back_solves_nothing(outside, solved):
    solved()
    changed = {**STUDY, "schedules": {"ramp": {"target": "sgm.discretizer.EDMDiscretization", "params": {"rho": 3}}}}
    assert solved(changed)[0] == ["mine", "other"]
    assert solved()[0] == []


def test_a_damaged_cell_is_one_line_and_a_table_without_keys_is_set_aside(outside, solved, study, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.csv").write_text("sampler,schedule,guidance,steps,seed,error\nmine,ramp,none,4,0,7\n")
    assert solved()[1]["mine"] == 6 and "mine" in (tmp_path / "out/results_without_keys.csv").read_text()
    damaged = next((tmp_path / "out/cells").glob("*/cell.json"))
    whole = json.loads(damaged.read_text())
    for text, says in (("{", "is not a solved cell"), ("[]", "is not a solved cell"),
                       (json.dumps({"measured": {}}), "its measures are error, not none"),
                       (json.dumps({**whole, "measured": {"error": "6"}}), "error is '6'; it must be a number"),
                       (json.dumps({**whole, "versions": {}}), "was written for another cell")):
        damaged.write_text(text)
        assert study(STUDY, "--allow-targets", "their_parts") == 2
        told = capsys.readouterr().err
        assert says in told and "remove its folder" in told and "Traceback" not in told


@pytest.mark.parametrize("returned, says", [
    ('{"error": torch.ones(1)}', "it must be a number, such as float(error)"), ('{"erorr": 1.0}', "not erorr"),
    ("None", "its measures are error, not null"),
])
def test_what_a_problem_returns_is_checked_before_it_is_kept(outside, study, tmp_path, capsys, returned, says):
    text = PARTS.format(factor=1).split("        return {\"error\"")[0]
    outside("import torch\n" + text.replace('"""Parts', '"""Parts') + f"        return {returned}\n")
    assert study(STUDY, "--allow-targets", "their_parts") == 2
    assert says in capsys.readouterr().err and not [*(tmp_path / "out/cells").glob("*/cell.json")]


def test_files_count_by_their_content(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.pt").write_bytes(b"1")
    before = content({"load": str(weights), "save": "runs/x", "name": "no/such/file"})
    keys.forget()
    (weights / "a.pt").write_bytes(b"2")
    after = content({"load": str(weights), "name": "no/such/file"})
    assert before["load"] != after["load"] and "save" not in before and before["name"] == "no/such/file"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes files of a package outside this project and returns the digest of its class `Mine`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "their_package"
    files = {"__init__": "", "numbers": "FACTOR = 1\nUNUSED = 1", "helpers": "from . import numbers\n"
             "def push(x):\n    return x * numbers.FACTOR", "deep/__init__": "from ..helpers import *",
             "deep/more": "def pull(x):\n    return x",
             "parts": "from .deep import *\nfrom .deep.more import pull as pulled\n"
             "class Mine:\n    def step(self, x):\n        return pulled(push(x))"}

    def digest_of(**changed):
        for name, text in {**files, **{name.replace("__", "/"): text for name, text in changed.items()}}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text(text)
        keys.forget()
        return digests([("their_package.parts", "Mine")])
    return digest_of


def test_relative_imports_and_those_of_all_names_are_followed(package):
    before = package()
    assert {"their_package.numbers", "their_package.helpers", "their_package.deep.more"} <= set(before)
    assert package(numbers="FACTOR = 2\nUNUSED = 1") != before
    assert package(deep__more="def pull(x):\n    return 2 * x") != before
    assert package(numbers="FACTOR = 1\nUNUSED = 2") == before


def test_what_a_problem_is_given_by_name_counts_too(outside, solved, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").write_text("1")
    outside(PARTS.format(factor=1).replace('("error",)', '("error",)\n    part: str = ""\n    input_file: str = ""')
            + "\n\ndef helper():\n    return 1\n")
    given = {**STUDY, "problem": {**STUDY["problem"], "part": "their_parts.helper", "input_file": "data.txt"}}
    assert solved(given)[0] == ["mine", "other"] and solved(given)[0] == []
    text = (tmp_path / "their_parts.py").read_text()
    outside(text.replace("def helper():\n    return 1", "def helper():\n    return 2"))
    assert solved(given)[0] == ["mine", "other"]
    (tmp_path / "data.txt").write_text("2")
    keys.forget()
    assert solved(given)[0] == ["mine", "other"]


def test_the_source_of_a_class_is_followed_through_the_project_and_no_library():
    found = digests([("sgm.sampling", "UniPCSampler")])
    assert {"sgm.sampling.adams", "sgm.sampling.base", "sgm.noise_schedule"} <= set(found)
    assert not any(name.startswith(("torch", "numpy", "dataclasses")) for name in found)


@pytest.mark.parametrize("text, says", [
    ("        raise KeyError('oh')", "mine, ramp, guidance none, 4 steps, seed 0: KeyError: 'oh'; raised in solve, "),
    ("        pass\n1 / 0", "their_parts cannot be imported (ZeroDivisionError: division by zero)"),
    ("        pass\n)", "their_parts cannot be imported (SyntaxError"),
    ("        pass\nraise SystemExit(0)", "their_parts cannot be imported (SystemExit: 0)"),
    ("        pass\nCounting.measures = 'error'", "declares no measures"),
    ("        pass\nCounting.measures = ('steps',)", "has the measure steps, which is a column of every study"),
    ("        pass\ndel Counting.solve", "defines no solve(self, part, cell)"),
])
def test_what_is_wrong_with_a_class_outside_this_project_is_one_line(outside, study, capsys, text, says):
    outside(PARTS.format(factor=1).split("        SOLVED.append")[0] + text + "\n")
    assert study(STUDY, "--allow-targets", "their_parts") == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told
