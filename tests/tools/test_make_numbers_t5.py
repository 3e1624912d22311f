"""Tests of the text encoder for numbers and relations, made from the committed one."""
import pytest
import torch

from engine.text_encoder import FrozenT5Embedder
from tools import make_numbers_t5

pytestmark = pytest.mark.slow

CAPTION = "a red circle of radius {} at ({}, {}) moves right at speed {} on a black background"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5_numbers")
    make_numbers_t5.main(["--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def encoder(made):
    return FrozenT5Embedder(str(made), max_length=24)


def test_each_word_and_number_of_the_captions_is_one_token(encoder):
    tokens = encoder.tokenizer.tokenize(CAPTION.format(9, 20, 40, 12))
    assert [token.strip("\u2581") for token in tokens] == [
        *"a red circle of radius 9 at ( 20 , 40 ) moves right at speed 12 on a black background".split()]
    assert len(encoder.tokenizer.tokenize("a red square larger than a blue circle above left of")) == 11


def test_a_number_lies_between_its_neighbours(encoder):
    seven, eight, nine, thirteen = (encoder([CAPTION.format(radius, 20, 40, 12)])[0, 5] for radius in (7, 8, 9, 13))
    apart = (nine - seven).norm()
    assert (eight - (seven + nine) / 2).norm() < 0.25 * apart
    assert (eight - seven).norm() > 0.3 * apart, "it differs from them"
    assert (thirteen - seven).norm() > 1.5 * apart


def test_the_order_of_words_reaches_every_word_that_it_concerns(encoder):
    first = FrozenT5Embedder("checkpoints/tiny/t5", max_length=24)
    texts = ["a red circle left of a blue square", "a blue circle left of a red square"]
    changes = {}
    for name, embedder in (("first", first), ("numbers", encoder)):
        one, other = embedder(texts)
        changes[name] = min((one[2] - other[2]).norm(), (one[7] - other[7]).norm())
    assert changes["numbers"] > 2 > 5 * changes["first"], "of embeddings whose norm is 8"
    one, other = encoder([CAPTION.format(9, 20, 40, 12), CAPTION.format(9, 40, 20, 12)])
    assert (one[8] - other[10]).norm() > 2, "x is told from y"


def test_the_first_words_keep_their_rows_and_the_same_files_are_made_again(made, tmp_path):
    from safetensors.torch import load_file
    old, new = (load_file(f"{folder}/model.safetensors") for folder in ("checkpoints/tiny/t5", made))
    kept = (old["shared.weight"][:176] == new["shared.weight"][:176]).all(1)
    assert kept.sum() == 176 - 10, "all but the ten digits"
    assert torch.equal(old["shared.weight"][-100:], new["shared.weight"][-100:])
    make_numbers_t5.main(["--out", str(tmp_path)])
    for name in ("model.safetensors", "spiece.model"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
