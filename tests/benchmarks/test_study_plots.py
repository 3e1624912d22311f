"""Tests of the plots of studies: panels, styles, labels at lines, axes by measure, and tables of small panels."""
import matplotlib
import numpy as np
import pytest
from PIL import Image

from benchmarks import study_plots
from benchmarks.studies import drawing, figures
from benchmarks.studies.curves import Plot
from benchmarks.studies.drawing import draw_curves
from benchmarks.studies.figures import COLORS, scale_axis, style_of
from benchmarks.studies.grid import read_study
from benchmarks.studies.labels import labelled, spread
from benchmarks.studies.measures import Measure, measure_of
from common.console import run


@pytest.fixture
def drawn(monkeypatch):
    """The panels that are saved, as a list that grows."""
    panels = []
    monkeypatch.setattr(drawing, "save", lambda axes, path: (panels.extend(axes), figures.save(axes, path)))
    return panels


def rows_of(lines, steps=(4, 8, 16), error=0.1):
    return [{"sampler": sampler, "schedule": "ramp", "guidance": guidance, "steps": n, "seed": 0, "error": error / n,
             "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.7}
            for sampler, guidance in lines for n in steps]


LINES = (("Euler", "plain"), ("Heun", "plain"), ("Heun", "none"), ("UniPC", "none"))


def test_a_line_looks_alike_in_every_panel_and_has_its_label_beside_each(drawn, tmp_path):
    plot = Plot("a", "steps", "error", lines=["sampler", "schedule"], panels="guidance")
    assert draw_curves(plot, rows_of(LINES), tmp_path / "a.png").path == tmp_path / "a.png"
    plain, none = ({line.get_label(): line.get_color() for line in labelled(panel)} for panel in drawn)
    assert plain["Heun, ramp"] == none["Heun, ramp"] != none["UniPC, ramp"]
    assert [sorted(text.get_text() for text in panel.texts if text.get_text()) for panel in drawn] == [
        ["Euler, ramp", "Heun, ramp"], ["Heun, ramp", "UniPC, ramp"]]
    assert all(panel.get_xlim() == drawn[0].get_xlim() and panel.get_ylim() == drawn[0].get_ylim() for panel in drawn)
    assert drawn[0].get_xscale() == drawn[0].get_yscale() == "log"


def test_a_panel_of_two_places_is_a_table_and_the_picture_has_the_others(drawn, tmp_path):
    rows = rows_of(LINES[:2]) + rows_of(LINES[2:], steps=(4, 8))
    found = draw_curves(Plot("a", "steps", "accuracy", panels="guidance"), rows, tmp_path / "a.png")
    assert [panel.get_title(loc="left") for panel in drawn] == ["guidance plain"]
    assert found.tables == {"guidance none": [
        {"sampler": name, "accuracy, 4 steps": "0.5 (0.4 to 0.7)", "accuracy, 8 steps": "0.5 (0.4 to 0.7)"}
        for name in ("Heun", "UniPC")]}
    small = draw_curves(Plot("a", "steps", "error"), rows_of(LINES[:1], steps=(4,)), tmp_path / "a.png")
    assert small.path is None and small.tables and not (tmp_path / "a.png").exists()


def test_each_of_several_measures_has_a_panel_over_names(drawn, tmp_path):
    rows = [row for guidance in "abc" for row in rows_of([("Euler", guidance)], steps=(4, 8))]
    assert draw_curves(Plot("a", "guidance", ["accuracy", "error"], lines="steps"), rows, tmp_path / "a.png").path
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == ["a", "b", "c"]
    assert drawn[1].get_ylim() == drawn[0].get_ylim()
    assert [panel.get_xscale() for panel in drawn] == ["linear", "log"]
    assert {"4 steps", "8 steps"} <= {text.get_text() for text in drawn[0].texts}


def test_pictures_are_as_wide_as_a_page(tmp_path):
    for number in (1, 2, 5):
        rows = [row for i in range(number) for row in rows_of([("Euler", f"guidance {i}")])]
        draw_curves(Plot("a", "steps", "error", panels="guidance"), rows, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.width == figures.WIDTH * figures.DPI


def test_labels_are_apart_in_their_order_and_move_no_more_than_needed():
    assert spread([0.5, 0.2, 0.9], 0.1) == pytest.approx([0.5, 0.2, 0.9])
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    crowded = spread([0.99, 0.98, 0.97, 0.3], 0.1)
    assert crowded == pytest.approx([1.0, 0.9, 0.8, 0.3])
    many = np.array(spread(np.random.default_rng(0).random(8), 0.12))
    assert np.diff(np.sort(many)).min() > 0.12 - 1e-9 and many.min() > -1e-9 and many.max() < 1 + 1e-9


def test_seventy_lines_have_different_styles_and_no_color_is_yellow():
    assert len({tuple(style_of(i).values()) for i in range(70)}) == 70
    assert len(set(COLORS)) == 7 and "#F0E442" not in COLORS


@pytest.mark.parametrize("measure, values, scale, ticks", [
    (measure_of("passes"), [8, 12, 24, 100], "log", [8, 12, 24, 100]),
    (measure_of("passes"), [100, 101, 400], "log", [100, 400]),  # 101 has no room
    (measure_of("accuracy"), [0.1, 0.9], "linear", None),
    (measure_of("error"), [0.1, 0.0], "symlog", [0.0, 0.1]),
    (measure_of("error"), [0.0, 1e-16], "linear", None),  # nothing but rounding errors
    (Measure("own", "", log=True), [0.01, 10], "log", None),
    (measure_of("never heard of"), [1, 2], "linear", None),
])
def test_axes_follow_their_measures(measure, values, scale, ticks):
    (axes,) = figures.panels([""])
    scale_axis(axes, "x", measure, values)
    assert axes.get_xscale() == scale
    if ticks:
        assert [float(label.get_text()) for label in axes.get_xticklabels()] == ticks
    matplotlib.pyplot.close(axes.figure)


def test_axes_name_unit_and_better_direction():
    (axes,) = figures.panels([""])
    scale_axis(axes, "y", measure_of("distance"), [1.0, 2.0])
    assert axes.get_ylabel() == "distance (units of features, lower is better)"
    matplotlib.pyplot.close(axes.figure)


def test_pictures_are_drawn_again_from_the_tables_in_the_documents(tmp_path):
    study = read_study("configs/studies/explicit_uniform_sampling.yaml")
    for name in ("explicit_uniform_sampling.csv", "explicit_uniform_sampling_losses.csv"):
        (tmp_path / name).write_bytes((study_plots.TABLES / name).read_bytes())
    assert [path.name for path in study_plots.redraw(study, tmp_path)] == [
        "explicit_uniform_sampling_losses.png", "explicit_uniform_sampling_deviation.png"]


def test_a_missing_or_damaged_table_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_plots, "TABLES", tmp_path)
    assert run(study_plots.main, ["order_of_convergence"]) == 2
    (tmp_path / "order_of_convergence.csv").write_text("sampler,schedule,guidance,steps,seed,passes,error\na,b,c,x,0\n")
    assert run(study_plots.main, ["order_of_convergence"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("order_of_convergence.csv is not a table of results" in line for line in lines)
