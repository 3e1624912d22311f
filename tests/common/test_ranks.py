"""Tests of what a process knows of the others of its run before they have met."""
import pytest

from common.errors import ConfigError
from common.ranks import check_torchrun, is_main_process, rank, world_size


def test_the_number_of_processes_is_the_announced_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert world_size() == 8


@pytest.mark.parametrize("announced", ["0", "-1", "eight", "1.5", ""])
def test_what_is_no_number_of_processes_is_one_line(announced, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", announced)
    with pytest.raises(ConfigError, match="WORLD_SIZE is .*; it must be a whole number, 1 or more"):
        world_size()


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("changes, says", [
    ({"MASTER_ADDR": None}, "RANK is '1', but MASTER_ADDR is not set, so that torchrun did not start this process"),
    ({"RANK": None}, "WORLD_SIZE is '2', but RANK is not set"), ({"RANK": "one"}, "RANK is 'one'; it must be a whole"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"), ({"MASTER_PORT": "٣"}, "MASTER_PORT is '.u0663'"),
    ({"RANK": "2"}, "RANK is 2, and WORLD_SIZE 2: ranks count from 0")])
def test_variables_of_torchrun_that_are_wrong_or_not_whole_are_one_line(changes, says, monkeypatch):
    for name, value in (TORCHRUN | changes).items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        check_torchrun()


def test_a_rank_that_stands_alone_does_not_count(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    check_torchrun()
    monkeypatch.setenv("RANK", "3")
    assert rank() == 0 and is_main_process(), "what is wrong is to be said"
