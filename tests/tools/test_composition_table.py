"""The table of what goes with what: up to date for every cell, and true for a sample of those that are not refused."""
import random
from functools import cache

import pytest

from tools.composition_table import DOCUMENT, Laboratory, cells, document, refusal


@cache
def refused():
    return {cell: refusal(cell) for cell in cells()}


def test_the_page_is_what_building_every_cell_gives():
    assert DOCUMENT.read_text(encoding="utf-8") == document(refused()), "run python tools/composition_table.py"


def chosen():
    """Cells in a random order, those alone that have a part which none before has."""
    allowed = [cell for cell, reason in refused().items() if reason is None]
    random.Random(0).shuffle(allowed)
    seen = set()
    for cell in allowed:
        parts = set(vars(cell).values())
        if parts - seen:
            seen |= parts
            yield cell


def test_every_part_runs_in_some_cell(tmp_path):
    laboratory, picked = Laboratory(tmp_path), list(chosen())
    tried = {part.label for cell in picked for part in vars(cell).values()}
    assert {"EulerEDMSampler", "DynamicCFG release", "PerturbedAttentionGuidance", "DiscreteDenoiser with VideoScaling"
            } <= tried
    failures = {cell: laboratory.failure(cell) for cell in picked}
    assert {cell: why for cell, why in failures.items() if why is not None} == {}
