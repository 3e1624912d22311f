"""TeaCache by the time embedding: its rule written out, limits, compiled networks, and what is refused."""
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from network.published_teacache import POLYNOMIALS, PublishedTeaCache
from network.step_cache import FirstBlockCache, RowState, TeaCache
from tests.dit_models import build, inputs

STEPS = 20


def run(network, cache, steps=STEPS, stride=40.0):
    """Return the outputs of some forward passes, and which of them skipped the layers."""
    x, _, text = inputs()
    state, outputs, skipped = cache.begin(len(x)), [], []
    for index in range(steps):
        runner = state.runner([0], index, steps)
        with torch.no_grad():
            outputs.append(network(x + index, torch.tensor([999 - stride * index]), text, layer_runner=runner))
        state = state.after(runner)
        skipped.append(runner.states[0].in_a_row > 0)
    return torch.stack(outputs), skipped


def rule(embeddings, coefficients, threshold):
    """The published rule, a call at a time: which calls skip the layers."""
    skipped, total, previous = [], 0.0, None
    for call, now in enumerate(embeddings):
        if call in (0, len(embeddings) - 1):
            skip, total = False, 0.0
        else:
            change = ((now - previous).abs().mean() / previous.abs().mean()).item()
            total += sum(c * change ** power for power, c in enumerate(reversed(coefficients)))
            skip = total < threshold
            total = total if skip else 0.0
        skipped.append(skip)
        previous = now
    return skipped


@pytest.mark.parametrize("name, threshold", [("2b", 0.2), ("5b", 0.1), ("1.5-5b", 0.2), ("1.5-5b-i2v", 0.2)])
def test_skips_follow_the_published_rule(name, threshold):
    network = build()
    cache = PublishedTeaCache(threshold=threshold, model=name)
    with torch.no_grad():
        times = [network.embed(torch.tensor([999 - 0.3 * i]), None, None) for i in range(STEPS)]
    expected = rule(times, POLYNOMIALS[name], threshold)
    assert 2 < sum(expected) < STEPS - 3, "the case must tell something"
    assert run(network, cache, stride=0.3)[1] == expected


def test_a_skipped_pass_adds_what_the_layers_added_last():
    network, x, text = build(), inputs()[0], inputs()[2]
    seen = []
    network.transformer.final_layernorm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    embedded = []
    embed = network.transformer.embedding_dropout.register_forward_hook(lambda _, given, out: embedded.append(out))
    state = PublishedTeaCache(threshold=1e9, polynomial=[1, 0]).begin(2)
    for index in range(2):
        runner = state.runner([0], index, 9)
        with torch.no_grad():
            network(x * (1 + index), torch.tensor([500.0 - index]), text, layer_runner=runner)
        state = state.after(runner)
    embed.remove()
    added = [after - before[:, text.shape[1]:] for after, before in zip(seen, embedded, strict=True)]
    torch.testing.assert_close(added[1], added[0], atol=1e-5, rtol=1e-5)


def test_a_repeated_step_is_decided_as_the_first_time():
    cache, state, decisions = PublishedTeaCache(threshold=0.25, polynomial=[1, 0]), RowState(), []
    for value in (1.0, 1.1, 1.2, 1.3, 1.4):
        for _ in range(2):
            state = cache.decided(state, torch.tensor([value]), kept=False)
            decisions.append(state.residual is not None)
            state = replace(state, residual=torch.zeros(()))
    assert decisions == [False, False, True, True, True, True, False, False, True, True]
    assert (state.asked, state.skipped) == (10, 6)


def test_limits_hold():
    cache = PublishedTeaCache(threshold=1e9, polynomial=[1, 0], max_skips=3, first_steps=2, last_steps=4)
    assert run(build(), cache, steps=14)[1] == [False] * 2 + [True] * 3 + [False] + [True] * 3 + [False] * 5


@pytest.mark.parametrize("cache", [PublishedTeaCache(threshold=1.5, polynomial=[1, 0]), TeaCache(threshold=0.5),
                                   FirstBlockCache(threshold=0.9)], ids=lambda cache: type(cache).__name__)
def test_a_compiled_network_skips_the_same_and_is_compiled_once(cache):
    network, counter = build(), CompileCounter()
    plain, skipped = run(network, cache)
    assert 0 < sum(skipped) < STEPS
    network.compile(backend=counter)
    compiled, also = run(network, cache)
    frames = counter.frame_count
    run(network, cache)
    assert also == skipped and counter.frame_count == frames
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("params, says", [
    ({}, "needs either model"), ({"model": "5b", "polynomial": [1]}, "needs either model"),
    ({"model": "5"}, "did you mean 5b"), ({"polynomial": []}, "polynomial"), ({"polynomial": ["a"]}, "polynomial"),
    ({"model": "5b", "max_skips": 0}, "max_skips is 0; it must be a whole number above 0"),
    ({"model": "5b", "first_steps": -1}, "first_steps is -1"), ({"model": "5b", "last_steps": 1.5}, "last_steps")])
def test_wrong_parameters_are_refused(params, says):
    with pytest.raises(ConfigError, match=says):
        instantiate_from_config({"target": "network.published_teacache.PublishedTeaCache",
                                 "params": {"threshold": 0.1, **params}})
