"""Tests of work and of the seconds that it takes."""
import torch

from common import measured
from dry_run import work
from dry_run.work import Rates, Work

EVERY = Work(products=2.0, attention=3.0, convolutions=5.0, cached=7.0, bytes=11.0, calls=13.0)


def test_work_adds_up():
    assert EVERY + EVERY * 2 == EVERY * 3 and EVERY.flops == 10 and (EVERY * 0.5).calls == 6.5


def test_each_kind_of_work_takes_its_own_time():
    assert Rates(2.0, 3.0, 5.0, 7.0, 11.0, 0.5).seconds(EVERY) == 5 + 6.5
    assert Rates(4.0, 3.0, 5.0, 7.0, 11.0, 0.5).seconds(EVERY) == 4.5 + 6.5


def test_rates_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(work, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(measured, "STARVED", 0.0)  # other tests may have the processor
    before = torch.get_rng_state()
    found = Rates.of(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.get_rng_state(), before), "a run draws the same after it"
    assert found.products > 1e7 and found.attention > 1e7 and found.convolutions > 1e7
    assert found.cached > 1e6 and found.bytes > 1e6 and 0 < found.call < 0.1
    monkeypatch.setattr(Rates, "measured", None)
    assert Rates.of(torch.device("cpu"), torch.float32) == found
