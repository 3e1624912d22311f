"""Tests of values checked against annotations: what is accepted, what is refused, and the words of the refusal."""
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import MinLen

from common.errors import ConfigError
from common.kinds import AboveZero, BelowOne, Count, Positive, Seed, Share, Sides, Steps, Unlimited
from common.typed import Fields, checked, shown, typed


def part(size: Positive, kind: Literal["small", "large"] = "small"):
    raise AssertionError("an annotation is read, never called")


@pytest.mark.parametrize("annotation, value, kept", [
    (Positive, 3, 3), (Positive, 3.0, 3), (float, 6, 6), (float, 1e-3, 1e-3), (Unlimited, math.inf, math.inf),
    (int | str | None, None, None), (int | str, 2.0, 2), (Sequence[Positive], [1, 2.0], [1, 2]),
    (Sides, (4, 6), (4, 6)),
    (Iterable[int] | None, [1], [1]), (Literal["fp32"] | torch.dtype, torch.float16, torch.float16),
    (tuple[int, int], [1, 2.0], (1, 2)), (Seed, -1, -1), (Mapping, {"a": 1}, {"a": 1}),
    (Annotated[Mapping, Fields(part)], {"size": 2.0}, {"size": 2})])
def test_what_fits_is_passed_on(annotation, value, kept):
    found = checked(annotation, value, "key")
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize("annotation, value, words", [
    (Positive, -1, "key is -1; it must be a whole number above 0"),
    (Positive, True, "key is true; it must be a whole number above 0"),
    (Positive, "3", "key is '3'; it must be a whole number above 0"),
    (Positive, 2.5, "key is 2.5; it must be a whole number above 0"),
    (Positive, 10**10, "key is 10000000000; it must be a whole number above 0 and at most 1000000000"),
    (Steps, 10**30, f"key is {10**30}; it must be a whole number above 0 and at most 100000"),
    (Count, -3, "key is -3; it must be a whole number, 0 or more"),
    (Share, 1.5, "key is 1.5; it must be a number from 0 to 1"),
    (BelowOne, 1.0, "key is 1.0; it must be a number, 0 or more and below 1"),
    (AboveZero | None, math.nan, "key is nan; it must be a finite number above 0, or null"),
    (Unlimited, math.nan, "key is nan; it must be a number, 0 or more"),
    (bool, 1, "key is 1; it must be true or false"),
    (bool, "yes", "key is 'yes'; it must be true or false"), (str, None, "key is null; it must be text"),
    (Sequence[str], "abc", "key is 'abc'; it must be a list of texts"),
    (Annotated[Sequence[Count], MinLen(1)], [], "key is []; it must be a list of 1 or more whole numbers, 0 or more"),
    (Sides, [1], "key is [1]; it must be [height, width] in whole numbers above 0"),
    (Mapping | None, 3, "key is 3; it must be a mapping, or null"),
    (Literal["small", "large"], "smal", "key is 'smal'; it must be small or large; did you mean small?"),
    (Annotated[Mapping, Fields(part)], {"size": 0}, "key.size is 0; it must be a whole number above 0"),
    (Annotated[Mapping, Fields(part)], {"sise": 1}, "key.sise: part has no such parameter; did you mean size?"),
    (Annotated[Mapping, Fields(part)], {}, "key.size is missing; add it"),
    (Annotated[Mapping, Fields(part)], 3, "key is 3; it must be a mapping"),
    (Sequence[Annotated[Mapping, Fields(part)]], [{"size": 1, "kind": 3}], "key.kind is 3; it must be small or large")])
def test_what_does_not_fit_is_one_line(annotation, value, words):
    with pytest.raises(ConfigError) as error:
        checked(annotation, value, "key")
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_a_class_of_a_stranger_is_checked_where_it_can_be():
    class Part:
        def __init__(self, size: Positive, other: "Nowhere" = None):  # noqa: F821
            pass

    assert typed(Part, {"size": -1}, "key") == {"size": -1}
    assert typed(lambda a, b=1: None, {"a": [], "c": 3}, "key") == {"a": [], "c": 3}


def test_a_value_is_shown_in_a_few_words():
    for value in ("x" * 9999, 10**9999, [["y" * 500] * 9], "\ud800"):
        assert len(shown(value)) < 100 and shown(value).encode()


@pytest.mark.parametrize("annotation, must", [
    (bool | Literal["regional"], "true, false or regional"), (bool | None, "true or false, or null"),
    (Literal["a", "b"] | None, "a or b, or null"), (Count | Literal["all"], "a whole number, 0 or more or all")])
def test_choices_read_as_one_list(annotation, must):
    with pytest.raises(ConfigError, match=f"^args.key is 'neither'; it must be {must}"):
        checked(annotation, "neither", "args.key")


@pytest.mark.parametrize("value, must", [
    (2**64, "a whole number below 18446744073709551616"), (-2**63 - 1, "a whole number -9223372036854775808 or more"),
    (1.5, "a whole number")])
def test_a_far_bound_is_named_only_to_what_is_beyond_it(value, must):
    with pytest.raises(ConfigError, match=f"; it must be {must}$"):
        checked(Seed, value, "args.seed")


def test_an_annotation_that_cannot_be_remembered_is_passed_over():
    assert checked(Annotated[float, {"unit": "s"}], 1.0, "x") == 1.0
