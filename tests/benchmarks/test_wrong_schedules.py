"""Tests that schedules which are wrong on purpose fail the checks, each with a sentence that says why."""
import numpy as np
import pytest

from benchmarks.check_sampler import checks_of
from configuration import targets
from sgm.discretizer import Discretization, EDMDiscretization, LegacyDDPMDiscretization, __all__


class Gap(EDMDiscretization):
    """All steps but two are at the highest noise."""

    def levels(self, n):
        return np.array([*np.linspace(80, 40, n - 1), 0.002]) if n > 1 else np.array([80.0])


class Keeps(Discretization):
    """Its levels fall each time."""

    highest = 80.0

    def levels(self, n):
        self.highest *= 0.9
        return np.geomspace(self.highest, 0.01, n)


class Backwards(LegacyDDPMDiscretization):
    """Its timesteps are the wrong way round."""

    def timesteps(self, n):
        return super().timesteps(n)[::-1]


@pytest.mark.parametrize("cls, check, says", [
    (Gap, "more steps are closer to the flow", "a gap that does not narrow"),
    (Keeps, "the same levels each time", "change no array"), (Backwards, "timesteps of the levels", "they ascend"),
])
def test_a_wrong_schedule_fails_and_says_why(monkeypatch, cls, check, says):
    monkeypatch.setattr(targets, "_opened", {__name__})
    found = dict(checks_of(f"{__name__}.{cls.__name__}", {}))[check]()
    assert not found.passed and says in found.remedy


@pytest.mark.parametrize("name", [
    name for name in __all__ if name not in ("Discretization", "TableDiscretization", "TabulatedDiscretization")])
def test_those_that_are_right_pass(name):
    assert [check for check, run in checks_of(f"sgm.discretizer.{name}", {}) if not run().passed] == []
