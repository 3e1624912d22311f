"""Tests of benchmarks.study: running, continuing, refusing other results, and the measured order of Euler's method."""
import csv
import json
import re

import pytest
import torch

from benchmarks.studies.pictures import POINTS, path_of
from benchmarks.studies.tables import markdown_table
from sgm.sampling import HeunEDMSampler, RungeKutta3Sampler

TWO_CELLS = {
    "question": "Is Euler's method of first order?",
    "problem": {"kind": "gaussian", "last_jump": False},
    "samplers": {"Euler": {"target": "sgm.sampling.EulerEDMSampler"}},
    "schedules": {"ramp": {"target": "sgm.discretizer.EDMDiscretization"}},
    "grids": [{"steps": [64, 128]}],
    "slopes": True,
    "plots": [{"name": "steps", "title": "Error of the runs", "x": "steps", "y": "error"}],
}
EULER = TWO_CELLS["samplers"]["Euler"]
GUIDED = {"target": "sgm.guiders.VanillaCFG", "params": {"scale": 2.0}}
FINITE = {**TWO_CELLS, "problem": {"kind": "finite", "clips": 6, "rows": 4}, "slopes": False,
          "guidances": {"plain": GUIDED},
          "grids": [{"steps": [4], "seeds": [0, 1]}], "plots": []}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_runs_and_finds_the_order_and_reports_it_in_one_file(study, tmp_path):
    assert study({**TWO_CELLS, "grids": [{"steps": [64, 96, 128]}]}) == 0
    found = rows(tmp_path / "out/results.csv")
    assert [(row["steps"], row["passes"]) for row in found] == [(n, n) for n in ("64", "96", "128")]
    slope = rows(tmp_path / "out/slopes.csv")[0]
    assert slope["declared"] == "1" and float(slope["fitted"]) == pytest.approx(1, abs=0.15)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("Error of the runs") == 3  # its link, its heading, and in place of the picture
    assert "data:image/png;base64," in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert (tmp_path / "out/small_steps.png").is_file()
    assert "| Euler | ramp | none | 64 | 0 | 64 |" in (tmp_path / "out/tables.md").read_text()


def test_tables_for_pages_have_intervals_behind_their_values():
    rows = [{"steps": 6, "accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.9041}]
    assert markdown_table(rows).splitlines()[2] == "| 6 | 0.75 (0.5 to 0.904) |"


def test_it_goes_on_where_it_stopped(study, tmp_path):
    assert study(TWO_CELLS, "--most", "1") == 0
    assert len(rows(tmp_path / "out/results.csv")) == 1
    (solved,) = (tmp_path / "out/cells").glob("*/cell.json")
    before = json.loads(solved.read_text())
    solved.write_text(json.dumps({**before, "measured": {"passes": 64, "error": 42}}))
    assert study(TWO_CELLS) == 0
    found = rows(tmp_path / "out/results.csv")
    assert len(found) == 2 and found[0]["error"] == "42"


def test_pictures_of_the_parts_need_no_results(study, tmp_path):
    pictures = [{"name": "paths", "kind": "trajectories", "schedule": "ramp", "steps": 4},
                {"name": "scales", "kind": "scales", "schedule": "ramp", "steps": 4}]
    assert study({**FINITE, "plots": pictures}, "--most", "0") == 0
    assert all((tmp_path / f"out/small_{one['name']}.png").is_file() for one in pictures)


def test_paths_end_at_the_data_and_those_of_many_steps_follow_the_flow():
    ramp = {"target": "sgm.discretizer.EDMDiscretization"}
    _, exact = path_of(RungeKutta3Sampler(discretization_config=ramp, num_steps=300))
    times, found = path_of(HeunEDMSampler(discretization_config=ramp, num_steps=80))
    assert times[0] > 0.98 and times[-1] == 0
    assert float((found[-1][:, None] - torch.tensor(POINTS)).abs().min(dim=1).values.max()) < 1e-3
    assert float((found[-1] - exact[-1]).abs().max()) < 1e-3


def test_finite_data_counts_the_passes_of_guidance(study, tmp_path):
    assert study(FINITE) == 0
    for row in rows(tmp_path / "out/results.csv"):
        assert float(row["passes"]) == 8 and float(row["error"]) >= 0 and float(row["energy"]) >= 0


@pytest.mark.parametrize("change, says", [
    ({"problem": {"kind": "nothing"}}, "problem.kind nothing is none of"),
    ({"problem": {"kind": "gaussian", "rows": 3}}, "unknown key rows"),
    ({"problem": {"kind": "sgm.sampling.EulerEDMSampler"}}, "is no frozen dataclass below benchmarks.studies.base"),
    ({"problem": {"kind": "os.path.Problem"}}, "os.path.Problem may not be named"),
    ({"grids": [{"steps": [4], "passes": [4]}]}, "a grid has steps or passes"),
    ({"grids": [{"passes": [0]}]}, "grids[0].passes"),
    ({"grids": [{"passes": [1]}], "samplers": {"RK": {"target": "sgm.sampling.RungeKutta3Sampler"}}},
     "RK, ramp, none, 1 passes: a step takes 3 passes"),
    ({"grids": [{"passes": [9]}], "samplers": {"A": {"target": "sgm.sampling.AdaptiveSampler"}}},
     "chooses its own steps"),
    ({"grids": [{"steps": [0]}]}, "must be a list of 1 or more whole numbers above 0"),
    ({"grids": [{"steps": [4], "samplers": ["Heun"]}]}, "the study has no Heun"),
    ({"samplers": {"Euler": {"target": "sgm.sampling.NoSampler"}}}, "NoSampler"),
    ({"plots": [{"name": "a", "x": "steps", "y": "beauty"}]}, "beauty is not a column"),
    ({"plots": [{"name": "a", "x": "steps"}]}, "plots[0].y is missing"),
    ({"plots": [{"name": "a", "kind": "pie"}]}, "plots[0].kind pie is none of"),
    ({"plots": [{"name": "a", "kind": "trajectories", "schedule": "ramp", "steps": 4, "samplers": ["Heun"]}]},
     "plots[0].samplers: the study has no Heun"),
    ({"plots": [{"name": "a", "x": "steps", "y": "error", "interval": ["error"]}]}, "takes two, low and high"),
    ({"comparisons": [{"name": "a", "against": {"steps": 3}}]}, "no cell of the study has another one"),
    ({"comparisons": [{"name": "a", "against": {"steps": 64}}]}, "problem.kind gaussian has none"),
    ({"problem": {"kind": "small_model", "repeats": 1}}, "problem.repeats is 1"),
    ({"question": None}, "question is missing"),
    ({"grids": [{"steps": [4], "samplers": []}]}, "grids[0].samplers is []"),
    ({"grids": [{"steps": [10**9]}]}, "whole numbers above 0 and at most 100000"),
    ({"samplers": {"a\0b": EULER}}, "is no name"),
    ({"samplers": {3: EULER}}, "write '3'"),
    ({"samplers": {"Euler": {**EULER, "parms": {"s_churn": 1}}}}, "parms: unknown key beside target and params"),
    ({"samplers": {"Euler": {**EULER, "params": {"num_steps": 3}}}}, "num_steps: schedules, guidances and grids say"),
    ({"schedules": {"ramp": EULER}}, "cannot be a discretization_config"),
    ({"guidances": {"none": GUIDED}}, "guidances.none is the name of no guidance"),
    ({"plots": [{"name": "a/b", "x": "steps", "y": "error"}]}, "plots[0].name is 'a/b'"),
    ({"plots": [{"name": "a", "x": "steps", "y": "error"}] * 2}, "one would replace the other"),
    ({"plots": [{"name": "a", "x": "steps", "y": "error", "where": {"sampler": "Euler"}}]},
     "it must be a mapping of names to a list of"),
    ({"plots": [{"name": "a", "x": "steps", "y": "error", "where": {"sampler": ["Eler"]}}]}, "did you mean Euler?"),
    ({"comparisons": [{"name": "a", "against": {"steps": 64}, "where": {"steps": [63]}}]}, "no cell has 63"),
])
def test_mistakes_are_one_line(study, capsys, change, says):
    assert study({**TWO_CELLS, **change}) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and err.startswith("error: ")
