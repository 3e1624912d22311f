"""Command-line options of the benchmarks: counts, and refusals of what has no effect."""
import argparse
from collections.abc import Sequence

from common.errors import ConfigError


def count(text: str) -> int:
    """Return the whole number above 0 that a word of the command line is."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def refuse_given(parser: argparse.ArgumentParser, options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ConfigError for the first of these options that has another value than its default, for that has no effect.
    """
    for name in names:
        if getattr(options, name) != parser.get_default(name):
            raise ConfigError(f"--{name.replace('_', '-')} has no effect {why}; leave it out")
