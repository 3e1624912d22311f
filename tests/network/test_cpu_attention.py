"""Tests of attention in 16 bits on a CPU: in bfloat16 its ways, and the choice between them."""
import pytest
import torch

from common import cpu_operations
from network import cpu_attention
from network.attention import attention


def drawn(queries: int, keys: int, heads: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, tokens, 16, generator=generator).bfloat16() for tokens in (queries, keys, keys)]


def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) / q.shape[-1] ** 0.5
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v.double())


@pytest.mark.parametrize("most_scores", [1, 100, 700, 10**6])
@pytest.mark.parametrize("queries", [1, 20, 33])
@torch.no_grad()
def test_pieces_of_any_size_are_attention(most_scores, queries, monkeypatch):
    monkeypatch.setattr(cpu_attention, "MOST_SCORES", most_scores)
    given = drawn(queries, 33)
    out = cpu_attention.in_pieces(*given)
    torch.testing.assert_close(out.double(), definition(*given).transpose(1, 2), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("keys", [17, 33, 47])
@pytest.mark.parametrize("level", [0, -40, 40])
@torch.no_grad()
def test_keys_beside_whole_tiles_have_their_weight(keys, level):
    q, k, v = drawn(20, keys)
    tiled = keys // cpu_attention.TILE * cpu_attention.TILE
    q[..., 0], k[..., 0], k[:, :, tiled:, 0] = 4, 0, level  # scores of the last keys lie this much above the others
    out = cpu_attention.in_tiles(q, k, v)
    torch.testing.assert_close(out.double(), definition(q, k, v).transpose(1, 2), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("way", ["fused", "tiles", "pieces"])
@torch.no_grad()
def test_the_measured_way_is_taken(way, monkeypatch):
    asked, taken = [], []
    monkeypatch.setattr(cpu_attention, "CPU_HAS_BFLOAT16", True)
    monkeypatch.setattr(cpu_attention, "fastest_way", lambda *shape: asked.append(shape) or way)
    for name, run in [(name, getattr(cpu_attention, name)) for name in ("fused", "in_tiles", "in_pieces")]:
        monkeypatch.setattr(cpu_attention, name, lambda *given, name=name, run=run: taken.append(name) or run(*given))
    given = drawn(cpu_attention.FEWEST_TOKENS, 300)
    out = attention(*given)
    assert asked == [(3, cpu_attention.FEWEST_TOKENS, 300, 16, False)] and [name.endswith(way) for name in taken] == [1]
    torch.testing.assert_close(out.double(), definition(*given).transpose(1, 2).flatten(2), atol=2e-2, rtol=2e-2)


def test_processors_without_the_instructions_take_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(cpu_attention, "fastest_way", lambda *shape: pytest.fail("measured"))
    monkeypatch.setattr(cpu_attention, "CPU_HAS_BFLOAT16", False)
    given = drawn(300, 300, heads=1)
    with torch.no_grad():
        attention(*given)
    attention(*(x.requires_grad_() for x in given)).sum().backward()
    assert given[0].grad is not None


@pytest.mark.parametrize("instructions", [True, False])
@torch.no_grad()
def test_float16_that_is_only_emulated_is_rounded_once(instructions, monkeypatch):
    monkeypatch.setattr(cpu_operations, "CPU_HAS_FLOAT16", instructions)
    given = [x.half() for x in drawn(20, 33)]
    out, expected = attention(*given), definition(*given).transpose(1, 2).flatten(2)
    assert out.dtype == torch.float16
    if not instructions:
        torch.testing.assert_close(out.double(), expected, rtol=2**-10, atol=1e-6)
    torch.testing.assert_close(out.double(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("most_scores", [1, 700, 10**6])
@pytest.mark.parametrize("way", ["pieces", "fused"])
def test_gradients_are_those_of_attention_either_way(way, most_scores, monkeypatch):
    monkeypatch.setattr(cpu_attention, "MOST_SCORES", most_scores)
    monkeypatch.setattr(cpu_attention, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(cpu_attention, "CPU_HAS_BFLOAT16", True)
    monkeypatch.setattr(cpu_attention, "fastest_way", lambda *shape: way)
    given = [x.requires_grad_() for x in drawn(20, 33)]
    direction = torch.randn(2, 20, 48, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((attention(*given) * direction).sum(), given)
    exact = torch.autograd.grad((definition(*given).transpose(1, 2).flatten(2) * direction).sum(), given)
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


def test_a_shape_is_measured_once(monkeypatch):
    cpu_attention.fastest_way.cache_clear()
    measured = []
    monkeypatch.setattr(cpu_attention, "fastest", lambda ways: measured.append(list(ways)) or "pieces")
    assert cpu_attention.fastest_way(1, 3, 32, 16) == cpu_attention.fastest_way(1, 3, 32, 16) == "pieces"
    cpu_attention.fastest_way.cache_clear()
    assert cpu_attention.fastest_way(1, 3, 32, 16) == "pieces" and measured == [["fused", "pieces"]]
    assert cpu_attention.fastest_way(1, 3, 32, 16, training=True) == "pieces" and len(measured) == 2
    assert cpu_attention.fastest_way(1, 3, 33, 16) == "pieces" and measured[2:] == [["fused", "tiles", "pieces"]]
    cpu_attention.fastest_way.cache_clear()


@torch.no_grad()
def test_both_ways_of_training_are_measured_with_their_gradients(monkeypatch):
    cpu_attention.fastest_way.cache_clear()
    monkeypatch.setattr(cpu_attention, "remembered", lambda what, measure: measure())
    gradients = []
    monkeypatch.setattr(cpu_attention, "fastest", lambda ways: gradients.extend(way() for way in ways.values()))
    cpu_attention.fastest_way(1, 3, 5, 16, training=True)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)
    cpu_attention.fastest_way.cache_clear()
