"""Tests that settings of single layers are looked up as PEFT does."""
import itertools

import pytest

from common.errors import CheckpointError
from weights.lora_names import KINDS, PARTS, layer_name
from weights.lora_patterns import check_patterns, names_of, of_layer

PATTERNS = ("to_q", "to_out.0", "0", "attn1.to_k", r".*\.to_v", "transformer_blocks.1.attn1.to_q", "net.0.proj", "q",
            "^transformer_blocks.1.*", r"blocks\.[01]\.attn1\.to_(q|k)", r"\d+.attn1.to_q", "attn.*", "to_q$", "^to_q")


def test_the_first_pattern_that_fits_counts_as_in_peft():
    peft = pytest.importorskip("peft.utils.other", reason="peft is missing: pip install -r requirements-test.txt")
    places = [(layer_name(kind, block), part) for kind in KINDS for block in (0, 1, 11) for part in range(PARTS[kind])]
    for chosen in itertools.permutations(PATTERNS, 2):
        patterns = {pattern: number for number, pattern in enumerate(chosen)}
        for place in places:
            wanted = patterns.get(peft.get_pattern_key(chosen, names_of(*place)[0]))
            assert of_layer(patterns, names_of(*place), None) == wanted, (patterns, place)


@pytest.mark.parametrize("pattern", ["(", "(a+)+b", r"(\w*)*x", "a*b*c*d*", "a" * 400, "(a|b){9}", "[" * 200])
def test_one_that_could_take_forever_is_refused(pattern):
    with pytest.raises(CheckpointError, match="is not understood; write the names of the layers out"):
        check_patterns([pattern], "file")
