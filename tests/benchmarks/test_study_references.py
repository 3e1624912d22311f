"""Tests of references: the end of the flow by two methods, kept by content, and what is measured against it."""
import numpy as np
import pytest
import torch

from benchmarks.exact import Gaussian
from benchmarks.studies import references, trained_model
from benchmarks.studies.cells import solve
from benchmarks.studies.cost import build_sampler, passes_of, steps_within
from benchmarks.studies.grid import Cell, Study
from benchmarks.studies.references import RAMP, reference
from benchmarks.studies.trained_model import Model, SmallModel
from common.errors import ConfigError, DataError
from media.videos import VIDEO, write_video
from tools.shapes_world import Combination, render

PAIR = [Combination("red", "circle", "moves left", "black"), Combination("blue", "square", "grows", "gray")]
GUIDED = {"target": "sgm.guiders.VanillaCFG", "params": {"scale": 2.0}}


class Exact:
    """A model of Gaussian data, whose flow is known, and whose videos are rendered."""

    config, runs = {"model": {"d": 0.5}}, 0
    paths = staticmethod(Model.paths)

    def run(self, sampler, combinations, seeds):
        self.runs += 1
        cond, uncond = ({"crossattn": torch.full((len(combinations), 1, 1), mean)} for mean in (1.0, 0.0))
        return torch.cat([sampler(Gaussian(sampler.discretization.parameterization), noise_of(seed), cond, uncond)
                          for seed in seeds])

    def write(self, latents, combinations, seeds, folder):
        paths = self.paths(combinations, seeds, folder)
        for i, path in enumerate(paths):
            one = combinations[i % len(combinations)]
            write_video(path, [render(one, np.random.default_rng(i))], 8)
        return paths


def noise_of(seed):
    return torch.randn(len(PAIR), 2, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_reference_is_the_end_of_the_guided_flow_and_solved_once(tmp_path, monkeypatch):
    model = Exact()
    found = reference(model, PAIR, [0, 1], None, 40, tmp_path)
    assert found.latents == pytest.approx(1 + 0.5 * torch.cat([noise_of(0), noise_of(1)]), abs=2e-3)
    assert found.settled.all() and 0 < found.floor < 5e-3 and model.runs == 2
    again = reference(model, PAIR, [0, 1], None, 40, tmp_path)
    assert model.runs == 2 and torch.equal(again.latents, found.latents)
    guided = reference(model, PAIR, [0, 1], GUIDED, 40, tmp_path)
    assert model.runs == 4 and float(guided.latents.mean()) == pytest.approx(float(found.latents.mean()) + 1, abs=0.02)
    model.config = {"model": {"d": 0.25}}
    reference(model, PAIR, [0, 1], None, 40, tmp_path)
    assert model.runs == 6
    monkeypatch.setattr(references, "key_of_parts", lambda trees, modules: {"sources": modules})
    reference(model, PAIR, [0, 1], None, 40, tmp_path)
    assert model.runs == 8
    monkeypatch.setattr(Exact, "__module__", "another.module")
    reference(model, PAIR, [0, 1], None, 40, tmp_path)
    assert model.runs == 10, "the code that makes the videos counts"
    for kept in tmp_path.glob("*/flow.safetensors"):
        kept.write_bytes(b"damaged")
    with pytest.raises(DataError, match="is no reference .*: remove its folder"):
        reference(model, PAIR, [0, 1], None, 40, tmp_path)


def test_distances_and_basins_are_measured_and_noises_without_a_reference_left_out(tmp_path, monkeypatch, caplog):
    model = Exact()
    found = reference(model, PAIR, [0], None, 40, tmp_path)
    other = tmp_path / "other"
    same, changed = found.videos[0], other / VIDEO
    write_video(changed, [render(PAIR[0], np.random.default_rng(0))], 8)
    measured = found.compared(found.latents + torch.tensor([0.0, 0.3]).view(2, 1, 1, 1, 1), [same, changed])
    assert measured["error"] == pytest.approx([0, 0.3]) and measured["other_basin"].tolist() == [0, 1]
    assert measured["pixel_error"][0] == 0 and measured["pixel_error"][1] > 20
    monkeypatch.setattr(references, "SETTLED", 0.0)
    unsettled = reference(model, PAIR, [0], None, 40, tmp_path)
    assert "2 of 2 noises have no settled reference" in caplog.text
    assert np.isnan(unsettled.compared(unsettled.latents, unsettled.videos)["error"]).all()


@pytest.mark.parametrize("sampler, guidance, steps, passes", [
    ("EulerEDMSampler", None, 5, 5), ("EulerEDMSampler", GUIDED, 5, 10), ("HeunEDMSampler", GUIDED, 3, 8),
    ("RungeKutta3Sampler", None, 4, 12)])
def test_passes_are_those_of_sampler_and_guider(sampler, guidance, steps, passes):
    parts = {"sampler": {"target": f"sgm.sampling.{sampler}"}, "schedule": RAMP, "guidance": guidance}
    assert passes_of(build_sampler(parts, steps)) == passes


def test_steps_are_found_where_few_are_refused():
    parts = {"sampler": {"target": "sgm.sampling.RestartSampler"}, "guidance": None,
             "schedule": {"target": "sgm.discretizer.EDMDiscretization"}}
    steps = steps_within(36, parts)
    assert passes_of(build_sampler(parts, steps)) <= 36 < passes_of(build_sampler(parts, steps + 1))
    with pytest.raises(ConfigError, match="none of the 1 steps arrives"):
        steps_within(4, parts)


def test_a_study_without_reference_steps_has_no_ends():
    assert SmallModel(reference_steps=None).ends(Cell("Euler", "ramp", "none", 2, 0), PAIR, [0]) is None


def test_the_reference_of_a_cell_is_guided_as_the_cell_is(monkeypatch, tmp_path):
    asked = []

    def found(model, combinations, seeds, guidance, steps, folder):
        asked.append((guidance, seeds, steps))
        raise DataError("enough")

    monkeypatch.setattr(trained_model, "reference", found)
    monkeypatch.setattr(Model, "run", lambda *inputs: None)
    monkeypatch.setattr(Model, "write", lambda *inputs: [])
    study = Study(name="one", question="?", problem={"kind": "small_model", "reference_steps": 7},
                  samplers={"Euler": {"target": "sgm.sampling.EulerEDMSampler"}}, schedules={"ramp": RAMP},
                  guidances={"plain": GUIDED}, grids=[{"steps": [2], "seeds": [3]}])
    with pytest.raises(DataError, match="enough"):
        solve(study, study.cells()[0], tmp_path / "cell")
    assert asked == [(GUIDED, [6, 7], 7)]
