"""Tests that this code computes what the public release computed."""
import pytest
import torch

from tests.recorded_cases import FOLDER, KINDS, Case

CASES = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))


@pytest.mark.parametrize("name", CASES)
def test_recorded(name):
    case = Case.load(name)
    compared = 0
    with torch.no_grad():
        for what, got, recorded in KINDS[case.meta["kind"]](case):
            torch.testing.assert_close(got.double(), recorded.double(), **case.meta["tolerance"], equal_nan=True,
                                       msg=lambda report, what=what: f"{name}, {what}: {report}")
            compared += 1
    assert compared


def test_every_kind_is_recorded():
    assert {Case.load(name).meta["kind"] for name in CASES} == set(KINDS)
