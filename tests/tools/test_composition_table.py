"""Tests of the composition table: up to date in every cell, and true for some of the allowed combinations."""
from functools import cache

from tools.composition_table import DOCUMENT, Laboratory, cells, document, meeting, refusal


@cache
def refused():
    return {cell: refusal(cell) for cell in cells()}


def test_the_page_is_what_building_every_cell_gives():
    assert DOCUMENT.read_text(encoding="utf-8") == document(refused()), "run python tools/composition_table.py"


def test_every_part_that_is_not_refused_runs_in_some_cell(tmp_path):
    laboratory, chosen = Laboratory(tmp_path), meeting(1, refused())
    tried = {part.label for cell in chosen for part in vars(cell).values()}
    possible = {part.label for cell, why in refused().items() if why is None for part in vars(cell).values()}
    assert tried == possible >= {"EulerEDMSampler", "DynamicCFG release", "DiscreteDenoiser with VideoScaling"}
    failures = {cell: laboratory.failure(cell) for cell in chosen}
    assert {cell: why for cell, why in failures.items() if why is not None} == {}
