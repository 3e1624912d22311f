"""Tests of step caches: no change at threshold 0, counted skips, and separate rows, branches and runs."""
import json
from argparse import Namespace
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import ConfigError
from common.files import REPOSITORY
from common.seeds import generator_for
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from engine.checks import check_model
from network.step_cache import FirstBlockCache, TeaCache, relative_change
from sample_video import main
from sgm.guiders import COND, Pass, VanillaCFG

SHAPE, STEPS = (5, 4, 4, 4), 6
KINDS = (TeaCache, FirstBlockCache)
ALWAYS_SKIP = 1e9


@pytest.fixture(scope="module")
def engine(small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    engine = DiffusionEngine(Namespace(model_config=config, fp16=False, bf16=False, device="cpu")).eval()
    torch.manual_seed(3)
    for parameter in engine.model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return engine


def sample(engine, cache, rows=(0, 1), sampler="EulerEDMSampler", guider=None, steps=STEPS):
    """Return the latents of these rows, and the share of network evaluations that each row skipped."""
    params = {**engine.config.sampler_config["params"], "num_steps": steps}
    engine.sampler = instantiate_from_config({
        "target": f"sgm.modules.diffusionmodules.sampling.{sampler}", "params": params})
    if guider is not None:
        engine.sampler.guider = guider
    engine.step_cache, infos = cache, []
    cond, uc = engine.conditioner.get_unconditional_conditioning(
        {"txt": ["a red circle", "a blue square moves left"]}, force_uc_zero_embeddings=["txt"])
    cond, uc = ({k: v[list(rows)] for k, v in half.items()} for half in (cond, uc))
    latents = engine.sample(cond, uc, len(rows), SHAPE, generator=[generator_for(0, row) for row in rows],
                            callback=infos.append)
    return latents, infos[-1].skipped


def median_change(engine, kind):
    """Return a cache with a threshold at which some network evaluations are skipped and some are not."""
    for threshold in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        cache = kind(threshold=threshold)
        _, skipped = sample(engine, cache)
        if all(0.2 < share < 0.65 for share in skipped):
            return cache
    raise AssertionError("no threshold skips some network evaluations and computes others")


@pytest.mark.parametrize("kind", KINDS)
def test_at_threshold_zero_nothing_differs(engine, kind):
    latents, skipped = sample(engine, kind(threshold=0))
    assert skipped == (0, 0)
    assert torch.equal(latents, sample(engine, None)[0])


@pytest.mark.parametrize("kind, layers", [(TeaCache, 2 * 2), (FirstBlockCache, 2 + STEPS)])
def test_skipped_passes_do_not_run_their_layers(engine, kind, layers):
    calls = []
    hooks = [layer.mlp.register_forward_hook(lambda *_: calls.append(1)) for layer in engine.network.transformer.layers]
    latents, skipped = sample(engine, kind(threshold=ALWAYS_SKIP), rows=(0,))
    for hook in hooks:
        hook.remove()
    # Computed: the first step and the last, where the guidance scale is 1 and there is no unconditional branch.
    assert len(calls) == layers and skipped == ((2 * STEPS - 1 - 3) / (2 * STEPS - 1),)
    assert torch.isfinite(latents).all() and not torch.equal(latents, sample(engine, None, rows=(0,))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_depends_neither_on_its_neighbours_nor_on_the_run_before(engine, kind):
    cache = median_change(engine, kind)
    together, shares = sample(engine, cache)
    again, _ = sample(engine, cache)
    alone, share = sample(engine, cache, rows=(1,))
    assert torch.equal(together, again) and share == shares[1:]
    torch.testing.assert_close(alone[0], together[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_passes_are_kept_apart(engine, kind):
    class InTwoCalls(VanillaCFG):
        passes = (Pass("uncond", unconditional=True, inputs={"identity_attention": ()}), COND)

    cache = median_change(engine, kind)
    for bounds in ({}, {"sigma_lo": 0.3, "sigma_hi": 3.0}):  # unconditional branch in all steps, or in an interval
        one, two = (sample(engine, cache, guider=guider(scale=4.0, **bounds)) for guider in (VanillaCFG, InTwoCalls))
        torch.testing.assert_close(one[0], two[0], atol=1e-3, rtol=1e-3)
        assert one[1] == two[1]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["HeunEDMSampler", "DPMPP2SAncestralSampler", "UniPCSampler", "VPSDEDPMPP2MSampler",
                                     "RestartSampler", "RungeKutta3Sampler", "AdaptiveSampler"])
def test_every_kind_of_sampler_row_by_row(engine, sampler):
    cache = TeaCache(threshold=ALWAYS_SKIP)
    together, shares = sample(engine, cache, sampler=sampler, steps=4)
    alone, share = sample(engine, cache, rows=(1,), sampler=sampler, steps=4)
    assert share == shares[1:] and 0 < share[0] < 1
    torch.testing.assert_close(alone[0], together[1], atol=1e-2, rtol=1e-2)


@dataclass(kw_only=True)
class Given(TeaCache):
    """A cache that decides by given signals, one for each call."""

    signals: tuple = ()

    def signal(self, network, x, context):
        value, self.signals = self.signals[0], self.signals[1:]
        return torch.full((1, 3, 2), value), x, 0


class GivenFirstBlock(Given):
    compared = FirstBlockCache.compared


NO_TEXT = SimpleNamespace(text_length=0)


class Counting:
    """A stand-in for the network and its transformer, whose layers add one."""

    def __init__(self):
        self.transformer, self.runs = self, 0

    def run_layers(self, x, context, first):
        self.runs += 1
        return x + 1


@pytest.mark.parametrize("kind, signals, ran", [
    (Given, (1.0, 1.1, 1.21, 1.331), [1, 0, 0, 1]), (Given, (1.0, 1.1, 1.0, 1.1), [1, 0, 0, 1]),
    (GivenFirstBlock, (1.0, 1.1, 1.21, 1.331), [1, 0, 0, 1]), (GivenFirstBlock, (1.0, 1.1, 1.0, 1.1), [1, 0, 0, 0]),
    (Given, (1.0, 1.1, float("nan"), 1.0), [1, 0, 1, 1]), (Given, (0.0, 0.0), [1, 1])])
def test_when_the_layers_run_again(kind, signals, ran):
    cache, network = kind(threshold=0.25, signals=signals), Counting()
    state, before, runs = cache.begin(1), 0, []
    for i in range(len(signals)):
        x = torch.full((1, 3, 2), float(i))
        runner = state.runner([0], 1, 9)
        assert torch.equal(runner(network, x, NO_TEXT), x + 1)
        state = state.after(runner)
        runs.append(network.runs - before)
        before = network.runs
    assert runs == ran and state.counts == ((ran.count(0), len(ran)),)


def test_the_first_steps_are_those_of_the_run_wherever_it_starts():
    cache = Given(threshold=1e9, signals=(1.0,) * 9, first_steps=3)
    for first in (0, 5):
        kept = [cache.begin(1, first).runner([0], first + step, 20).kept for step in range(5)]
        assert kept == [True, True, True, False, False]


def test_a_forward_pass_leaves_the_state_before_it_as_it_was():
    cache, network, x = Given(threshold=0.25, signals=(1.0, 1.1, 1.1)), Counting(), torch.zeros(1, 3, 2)
    first = cache.begin(1).runner([0], 1, 9)
    first(network, x, NO_TEXT)
    before = cache.begin(1).after(first)
    for _ in range(2):  # from one state, twice the same
        runner = before.runner([0], 1, 9)
        runner(network, x, NO_TEXT)
        assert (before.rows[0][0].asked, before.rows[0][0].skipped) == (1, 0)
        assert (before.after(runner).rows[0][0].asked, before.after(runner).counts) == (2, ((1, 2),))


def test_states_of_rows_and_branches_find_their_places():
    empty, rows = TeaCache(threshold=0).begin(1), []
    for asked in (1, 2):
        runner = empty.runner([3], 1, 9)
        runner.states = [replace(runner.states[0], asked=asked)]
        rows.append(empty.after(runner))
    together = rows[0].joined(rows[1:])
    runner = together.runner([3, 0], 1, 9)
    assert [state.asked for state in runner.states] == [1, 2, 0, 0], "all rows once per branch"
    runner.states = [replace(state, skipped=i) for i, state in enumerate(runner.states)]
    rows = together.after(runner).rows
    assert [{branch: state.skipped for branch, state in row.items()} for row in rows] == [{3: 0, 0: 2}, {3: 1, 0: 3}]


def test_a_polynomial_rescales_the_change(engine):
    assert sample(engine, TeaCache(threshold=0.1, polynomial=[1e9, 0]))[1] == (0, 0)
    assert min(sample(engine, TeaCache(threshold=0.1, polynomial=[1e-9, 0]))[1]) > 0.5
    assert relative_change(torch.tensor([1.0, -4.0]), torch.tensor([2.0, -3.0])) == pytest.approx(0.4)


@pytest.mark.parametrize("cache, says", [
    ({"target": "step_cache.TeaCache", "params": {"threshold": -1}}, "threshold is -1; it must be a number, 0 or more"),
    ({"target": "step_cache.TeaCache", "params": {"threshold": "much"}}, "threshold is 'much'; it must be a number"),
    ({"target": "step_cache.TeaCache"}, "threshold missing"),
    ({"target": "step_cache.TeaCache", "params": {"threshold": 1, "polynomial": []}},
     "polynomial is \\[\\]; it must be a list of 1 or more numbers"),
    ({"target": "step_cache.FirstBlockCache", "params": {"threshold": 1, "polynomial": [1]}}, "no such parameter"),
    ({"target": "step_cache.FirstBlock", "params": {"threshold": 1}}, "did you mean FirstBlockCache")])
def test_what_cannot_be_is_refused_without_building(small_model, cache, says):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    with pytest.raises(ConfigError, match=says) as error:
        check_model(OmegaConf.merge(config, {"step_cache_config": cache}))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_share_skipped_stands_beside_the_video(small_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    words = ["--base", str(small_model / "t2v.yaml"), str(REPOSITORY / "configs" / "inference.yaml"),
             "--batch-size", "2", "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / "out")]
    cache = ["model.step_cache_config.target=step_cache.TeaCache", "model.step_cache_config.params.threshold=1e9"]
    assert main([*words, *cache]) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("metadata.json")]
    assert [record["passes_skipped"] for record in records] == [2 / 5, 2 / 5]
