"""Lists of names in messages: a count and the first few."""
from collections.abc import Iterable

NAMES_IN_A_LIST = 3


def listed(names: Iterable, most: int = NAMES_IN_A_LIST) -> str:
    """Return the first `most` names, separated by commas, and how many more there are."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
