"""Tests of the choices of a comparison: grids, and the videos to make that they become."""
import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from cogvideo.studio.cells import cells_of
from cogvideo.studio.choices import NOTHING, SCALE, STEPS, Axis, asked_for, grid_of, names_of, title_of
from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE
from cogvideo.studio.making import sampler_config
from cogvideo.studio.models import SHARED, Model
from cogvideo.studio.studio import Studio
from common.errors import ConfigError, UserError
from configuration.targets import instantiate_from_config

PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def model(small_model):
    return Model("small", ("--base", str(small_model / "t2v.yaml"), str(SHARED)))


@pytest.fixture
def studio(model, tmp_path):
    return Studio({"small": model}, tmp_path, tmp_path / "uploads", tmp_path, tmp_path, tmp_path)


def test_a_grid_has_its_rows_one_after_the_other():
    grid = grid_of(Axis(SAMPLER, ("A", "B")), Axis(STEPS, ("6", "12")))
    assert [title_of(choice) for choice in grid] == ["A, 6 steps", "A, 12 steps", "B, 6 steps", "B, 12 steps"]
    assert grid_of(Axis.of(NOTHING, [], 3, "rows"), Axis(SCALE, ("1",))) == [{SCALE: "1"}]
    assert title_of({}) == "as configured"


@pytest.mark.parametrize("kind, values, says", [
    (SAMPLER, list("abcd"), "4 values of sampler are chosen; take 1 to 3"),
    (STEPS, [], "0 values of steps"),
    (STEPS, None, "0 values of steps"),
    ("beauty", ["1"], "'beauty' is none of"),
    (["steps"], ["1"], "is none of"),
])
def test_wrong_axes_are_refused(kind, values, says):
    with pytest.raises(ConfigError, match=says):
        Axis.of(kind, values, 3, "rows")


def test_two_axes_of_one_kind_are_refused():
    with pytest.raises(ConfigError, match="rows and columns both are steps"):
        grid_of(Axis(STEPS, ("1",)), Axis(STEPS, ("2",)))


def test_a_choice_changes_what_it_names_and_keeps_the_rest(model):
    before = asked_for("small", model, PROMPT, 0, {})
    after = asked_for("small", model, PROMPT, 0, {SAMPLER: "UniPCSampler", STEPS: "4", SCALE: "2.5"})
    assert after.parts[SAMPLER][0] == "UniPCSampler" != before.parts[SAMPLER][0]
    assert after.parts[SCHEDULE] == before.parts[SCHEDULE] and after.steps == 4 != before.steps
    assert after.parts[GUIDER] == (before.parts[GUIDER][0], {**before.parts[GUIDER][1], "scale": 2.5})


def test_every_class_that_is_offered_can_be_chosen(model):
    assert {"EulerEDMSampler", "UniPCSampler"} <= set(names_of(SAMPLER))
    parts = asked_for("small", model, PROMPT, 0, {}).parts
    for role in (SAMPLER, GUIDER):
        for name in names_of(role):
            chosen = {**parts, role: (name, {"scale": 1.0} if role == GUIDER else {})}
            sampler = instantiate_from_config(sampler_config(chosen, 4))
            assert name in (type(sampler).__name__, type(sampler.guider).__name__)


@pytest.mark.parametrize("text, seed, choice, says", [
    (" ", 0, {}, "the prompt is empty"),
    (None, 0, {}, "the prompt is empty"),
    (PROMPT, 2**70, {}, "seed is 1180591620717411303424"),
    (PROMPT, None, {}, "seed is null"),
    (PROMPT, 0, {STEPS: "many"}, "many steps: steps is 'many'"),
    (PROMPT, 0, {STEPS: "-3"}, "-3 steps: steps is -3"),
    (PROMPT, 0, {SCALE: "nan"}, "scale nan: .*scale"),
    (PROMPT, 0, {SAMPLER: "os.system"}, "sampler 'os.system' is none of"),
    (PROMPT, 0, {GUIDER: "Guider"}, "guider 'Guider' is none of"),
])
def test_what_cannot_be_made_is_one_line_and_leaves_no_folder(studio, text, seed, choice, says):
    with pytest.raises(UserError, match=says) as found:
        cells_of(studio, "small", text, seed, [{}, choice] if choice else [choice])
    assert "\n" not in str(found.value) and not list((studio.outputs / "studio").iterdir())


def test_each_cell_has_a_folder_of_its_own_and_the_same_prompt_and_seed(studio):
    cells = cells_of(studio, "small", f"  {PROMPT}@@/etc/passwd\n", 5, [{STEPS: "1"}, {STEPS: "2"}])
    assert [cell.title for cell in cells] == ["1 steps", "2 steps"]
    assert len({cell.given.args.sampling.output_dir for cell in cells}) == 2
    assert {cell.given.args.run.seed for cell in cells} == {5}
    assert {(job.prompt.text, job.prompt.image) for cell in cells for job in cell.given.jobs} == {
        (f"{PROMPT}@@/etc/passwd", None)}  # a text, which reaches no file
