"""Tests of the loop that all training runs share: what its log says of time."""
import json

import torch
from torch import nn

from configuration.settings import Arguments
from training import trainer
from training.schedule import Course


class Clock:
    """A clock that goes on only where it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_a_step_is_timed_without_validation_and_saves(tmp_path, monkeypatch):
    clock = Clock()

    class Counted(trainer.Trainer):
        def update_weights(self):
            clock.now += self.step + 1

        def report(self):
            return {"loss": 1.0}

        def validate(self):
            clock.now += 100
            return {"valid_loss": 1.0}

        def save(self):
            clock.now += 1000

    monkeypatch.setattr(trainer, "time", clock)
    layer = nn.Linear(1, 1)
    args = Arguments().changed(save=str(tmp_path), eval_interval=1, save_interval=2, log_interval=2)
    Counted(args, Course(4, 0.1, 0.0), layer, torch.optim.SGD(layer.parameters(), 0.1), None).run()
    log = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [line["seconds_per_step"] for line in log if "loss" in line] == [1.5, 3.5]
