"""The problem of training variants of a small model with train_video.py, measured by loss on held-out clips."""
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.studies.base import Problem
from benchmarks.studies.grid import VariantCell, check_keys
from benchmarks.studies.model_config import merged
from common.errors import ConfigError, DataError
from configuration.targets import allow_targets

ABLATIONS = "benchmarks.studies.ablations"
LOG = "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class Training(Problem):
    """Training runs from random weights, with the steps and the seed of a cell.

    The configuration is `base`, changed by `overrides` and then by the variant's own `overrides`. Runs are written in
    the cells' folders. `valid_loss` is the loss of the averaged weights on held-out clips after the last step, with the
    same noise in every run.
    """

    cell_type: ClassVar = VariantCell
    measures: ClassVar = ("valid_loss", "loss", "seconds_per_step")
    base: Sequence[str] = ("configs/tiny_t2v.yaml", "configs/tiny_t2v_train.yaml")
    overrides: Sequence[str] = ()

    def check(self, variant: Mapping, where: str) -> None:
        """Raise ConfigError for an invalid variant."""
        check_keys(variant, ("overrides",), where)
        given = variant.get("overrides", [])
        if not isinstance(given, list) or not all(isinstance(word, str) and "=" in word for word in given):
            raise ConfigError(f"{where}.overrides must be a list of key=value")

    def needs(self, part: Mapping) -> Mapping:
        return merged("--base", *self.base, *self.overrides, *part["variant"].get("overrides", []))

    def solve(self, variant: Mapping, cell: VariantCell) -> dict[str, float]:
        allow_targets(ABLATIONS)
        folder = self.place(cell)
        if folder.exists():  # left by a run that was interrupted
            shutil.rmtree(folder)
        words = self.words(variant, cell)
        self.train(words)
        last: dict[str, float] = {}
        for record in self._records(cell):
            last |= record
        last |= self.beside(words)
        return {name: last[name] for name in self.measures}

    def words(self, variant: Mapping, cell: VariantCell) -> list[str]:
        """Return the command line of a cell's training."""
        return ["--base", *self.base, *self.overrides, *variant.get("overrides", []), f"args.save={self.place(cell)}",
                f"args.train_iters={cell.steps}", f"args.seed={cell.seed}"]

    def beside(self, words: Sequence[str]) -> dict[str, float]:
        """Return further measures of a finished training."""
        return {}

    def train(self, words: Sequence[str]) -> None:
        """Train as a command line says."""
        from train_video import train_video  # imported late: SwissArmyTransformer takes seconds

        train_video(words)

    def losses(self, cell: VariantCell) -> tuple[list[int], list[float]]:
        """Return the steps and validation losses of a solved cell."""
        found = [(record["step"], record["valid_loss"]) for record in self._records(cell) if "valid_loss" in record]
        steps, losses = zip(*found, strict=True)
        return list(steps), list(losses)

    def _records(self, cell: VariantCell) -> list[dict]:
        """Return the lines of a cell's training log. Raises DataError if it is missing or damaged."""
        path = self.place(cell) / LOG
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a training log ({error}): remove its folder, so that the cell is solved "
                            "again") from error
