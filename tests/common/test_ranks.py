"""Tests of what a process knows of the others of its run before they have met."""
import pytest

from common.errors import ConfigError
from common.ranks import world_size


def test_the_number_of_processes_is_the_announced_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert world_size() == 8


@pytest.mark.parametrize("announced", ["0", "-1", "eight", "1.5", ""])
def test_what_is_no_number_of_processes_is_one_line(announced, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", announced)
    with pytest.raises(ConfigError, match="WORLD_SIZE is .*; it must be a number of processes, 1 or more"):
        world_size()
