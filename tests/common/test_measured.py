"""Tests of measurements that are remembered for later runs."""
import time

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from common import measured
from dry_run.meter import FusedAttention, Meter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_measurement_is_made_once():
    made = []
    for _ in range(2):
        assert measured.remembered("a", lambda: made.append(1) or [1, 2.5]) == [1, 2.5]
    assert measured.remembered("b", lambda: "other") == "other" and measured.remembered("a", lambda: None) == [1, 2.5]
    assert made == [1]


def test_what_is_measured_without_the_processor_is_not_remembered():
    assert measured.remembered("a", lambda: time.sleep(0.1) or 1) == 1  # as if others had it meanwhile
    assert measured.remembered("a", lambda: 2) == 2 and measured.remembered("a", lambda: 3) == 2


def test_modes_neither_count_nor_replace_what_is_measured():
    def measure():
        q = torch.ones(1, 1, 2, 4)
        return F.scaled_dot_product_attention(q, q, 2 * q).sum().item()

    with Meter(torch.device("cpu")) as meter, FusedAttention(meter), torch.device("meta"):
        assert measured.remembered("a", measure) == 16
    assert meter.peak == 0


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_computed_where_the_measured_way_does(enabled):
    with torch.set_grad_enabled(enabled):
        assert measured.remembered("a", torch.is_grad_enabled) is enabled
    assert torch.is_grad_enabled()


def test_layers_that_are_computed_again_may_measure_the_first_time():
    def layer(x):
        other = torch.ones(3, requires_grad=True)
        measured.remembered("a", lambda: torch.autograd.grad(other.exp().sum(), other)[0].tolist())
        return x.exp()

    x = torch.zeros(3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_another_device_is_measured_for_itself(monkeypatch):
    assert measured.remembered("a", lambda: 1) == 1
    monkeypatch.setattr(measured, "device_name", lambda: "another/processor")
    assert measured.remembered("a", lambda: 2) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_a_damaged_file_is_measured_anew(content):
    measured.remembered("a", lambda: 1)
    measured._path().write_text(content, encoding="utf-8")
    assert measured.remembered("a", lambda: 2) == 2 and measured.remembered("a", lambda: 3) == 2


def test_without_a_cache_folder_it_is_measured_every_time(cache_folder):
    cache_folder.write_text("a file where the folder would be", encoding="utf-8")
    assert measured.remembered("a", lambda: 1) == 1 and measured.remembered("a", lambda: 2) == 2


def test_the_fastest_way_is_that_of_the_least_time(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert measured.fastest({"slow": lambda: time.sleep(0.01), "quick": lambda: None}) == "quick"
    runs = iter(range(100))
    assert measured.fastest({"once quick": lambda: time.sleep(0 if next(runs) == 3 else 0.01),
                             "usually quicker": lambda: time.sleep(0.003)}) == "usually quicker"


def test_one_thread_is_measured_by_what_it_computes_itself(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    ways = {"busy": lambda: sum(range(100_000)), "waiting": lambda: time.sleep(0.02)}
    assert measured.fastest(ways) == "waiting", "as if another program had the processor meanwhile"


def test_the_first_way_stays_unless_another_gains_clearly(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(measured.time, "perf_counter", lambda: next(clock))  # every look takes a second

    def looks(seconds):
        return lambda: [next(clock) for _ in range(seconds)]

    assert measured.fastest({"usual": looks(10), "new": looks(8)}) == "new"
    assert measured.fastest({"usual": looks(10), "new": looks(8)}, gain=1.25) == "usual"
    assert measured.fastest({"usual": looks(10), "new": looks(5)}, gain=1.25) == "new"


def test_a_measurement_counts_for_one_processor_and_number_of_threads(monkeypatch):
    threads = torch.get_num_threads()
    asked = measured.once(lambda: torch.get_num_threads())
    name = measured.device_name()
    try:
        assert asked() == asked() == threads
        torch.set_num_threads(threads + 1)
        assert asked() == threads + 1 and measured.device_name() != name
    finally:
        torch.set_num_threads(threads)
    there = torch.cpu.get_capabilities()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there | {"amx_bf16": not there.get("amx_bf16")})
    assert measured.device_name() != name, "processors of one name differ in their instructions"
