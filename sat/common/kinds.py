"""Kinds of values that annotations name: numbers with bounds, texts and parts, which `common.typed` checks.

The upper bounds of sizes are far above what any machine holds, and low enough for a program that plans with them.
"""
from collections.abc import Mapping, Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AllowInfNan, Field

MANY = 10**9  # of anything: more is a mistake, whatever is counted

Count = Annotated[int, Ge(0), Le(MANY)]
Positive = Annotated[int, Gt(0), Le(MANY)]
Seed = Annotated[int, Ge(-2**63), Lt(2**64)]  # what torch takes
Size = Annotated[int, Gt(0), Le(1_000_000)]  # widths, frames, tokens, pixels along a side
SizeOrZero = Annotated[int, Ge(0), Le(1_000_000)]
Steps = Annotated[int, Gt(0), Le(100_000)]  # also processes, and videos of a prompt
Layers = Annotated[int, Gt(0), Le(1000)]
Sides = Annotated[Sequence[Size], MinLen(2), MaxLen(2), Field(description="[height, width] in whole numbers above 0")]
SidesOfEach = Annotated[Sequence[Sides], MinLen(1)]

# Numbers are finite unless their kind says otherwise.
Share = Annotated[float, Ge(0), Le(1)]
AboveZero = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Unlimited = Annotated[float, Ge(0), AllowInfNan()]  # infinity stands for no limit
Rate = Annotated[float, Gt(0), Le(1000)]  # frames per second
BelowOne = Annotated[float, Ge(0), Lt(1)]

Text = Annotated[str, MinLen(1)]
Part = Mapping  # `{target, params}` of a class, which `configuration.targets` checks
