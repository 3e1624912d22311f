"""Odd values in every place of a configuration, driven through the real entry points up to where weights would load."""
import copy
import inspect
import math
from collections.abc import Iterator
from pathlib import Path

import yaml

import cogvideo.pipeline
import sample_video
import train_vae
import train_video
from benchmarks import study
from common.console import run
from common.errors import UserError
from configuration.settings import KEYS
from configuration.targets import get_obj_from_str

ODD = (None, True, False, "abc", "", " ", "3", "3.5", -1, 0, 1, 2, 7, 3.0, 2.5, -0.5, math.nan, math.inf, -math.inf,
       1e30, 10**30, -10**30, [], [0], [1, 2], [1, 2, 3], ["a"], [[1, 2]], [None], [math.nan], {}, {"a": 1},
       {"target": 3}, {"target": "torch.nn.Identity"}, {"target": "torch.nn.Identity", "params": [1]}, {"params": {}},
       "x" * 5000, "~nobody_at_all/x", "a\0b", "a\nb", "/dev/null", "/proc/self", "${oc.env:HOME}", "${nowhere.at.all}",
       "${", "🎬")
MISSING = object()  # a key that is left out
Place = tuple[str | int, ...]


class ReachedError(UserError):
    """The end of a trial: the configuration was accepted, and weights would load now."""


def places(tree, place: Place = ()) -> Iterator[Place]:
    """All places of a tree, and those of parameters that the targets in it could be given."""
    if place:
        yield place
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*place, key))
        if "target" in tree:
            known = inspect.signature(get_obj_from_str(tree["target"])).parameters
            given = tree.get("params") or {}
            yield from ((*place, "params", name) for name in known if name not in given)
        if place == ("args",):
            yield from ((*place, name) for name in KEYS if name not in tree)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from places(value, (*place, number))


def changed(tree: dict, place: Place, value) -> dict:
    """Return a copy of a tree with another value in one place."""
    tree = inner = copy.deepcopy(tree)
    for key in place[:-1]:
        if isinstance(inner, dict) and inner.get(key) is None:
            inner[key] = {}
        inner = inner[key]
    if value is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = copy.deepcopy(value)
    return tree


def stopped(*args, **kwargs):
    raise ReachedError("reached")


class Entry:
    """An entry point that reads a configuration from a file and stops where weights would load."""

    def __init__(self, main, patches, *words: str):
        self.main, self.patches, self.words = main, patches, words

    def __call__(self, tree: dict, folder: Path, monkeypatch) -> int:
        """Return the exit code; what went wrong is on standard error."""
        file = folder / "odd.yaml"
        file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        for module, name in self.patches:
            monkeypatch.setattr(module, name, stopped)
        return self.main([*([] if self.main is run_study else ["--base"]), str(file), *self.words])


def run_study(words) -> int:
    return run(study.main, words)


def run_training(words) -> int:
    return run(train_video.train_video, words)


def run_vae_training(words) -> int:
    return run(train_vae.main, words)


PLAN = Entry(sample_video.main, [], "--plan")
SAMPLING = Entry(sample_video.main, [(cogvideo.pipeline, "load_engine")])
TRAINING = Entry(run_training, [(train_video, "build_trainer")])
VAE_TRAINING = Entry(run_vae_training, [(train_vae, "build_trainer")])
STUDY = Entry(run_study, [(study, "solve_all")])
