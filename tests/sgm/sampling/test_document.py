"""Tests that docs/samplers.md names all samplers and schedules, with what they declare and their parameters."""
import re
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

import sgm.discretizer
import sgm.sampling
from configuration.targets import get_obj_from_str
from sgm.sampling import Sampler
from tests.sgm.problems import sampler_of

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = (REPOSITORY / "docs/samplers.md").read_text(encoding="utf-8")
ROWS = {target: [cell.strip() for cell in cells.split("|")]
        for target, cells in re.findall(r"^\| `(sgm\.\S+)` \|(.*)\|$", TEXT, re.M)}
BASES = ("Sampler", "Discretization", "TableDiscretization")


def public(module):
    return {f"{module.__name__}.{name}": cls for name, cls in vars(module).items()
            if name in module.__all__ and isinstance(cls, type) and name.endswith(("Sampler", "Discretization"))
            and name not in BASES}


def test_the_table_names_exactly_the_classes_that_exist():
    assert sorted(ROWS) == sorted({**public(sgm.sampling), **public(sgm.discretizer)})


@pytest.mark.parametrize("path", [path for path in ROWS if ".sampling." in path])
def test_the_row_of_a_sampler_says_what_it_declares(path):
    _, order, with_noise, evaluations, own = ROWS[path]
    sampler = sampler_of(path.rsplit(".", 1)[1])
    assert order == str(sampler.convergence_order or "-") and evaluations == str(sampler.nfe or "-")
    noisy = [sampler.strong_order, sampler.weak_order]
    assert with_noise == ("-" if noisy == [None, None] else ", ".join(map(str, noisy)))
    inherited = {field.name for field in fields(Sampler)}
    assert set(re.findall(r"`(\w+)`", own)) == {f.name for f in fields(sampler) if f.init} - inherited


@pytest.mark.parametrize("path", [path for path in ROWS if ".discretizer." in path])
def test_the_row_of_a_schedule_names_its_parameters(path):
    assert re.findall(r"`(\w+)`", ROWS[path][-1]) == list(signature(get_obj_from_str(path)).parameters)


def test_the_tests_that_the_page_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert named
    for path, name in named:
        assert f"def {name}" in (REPOSITORY / path).read_text(encoding="utf-8"), (path, name)
