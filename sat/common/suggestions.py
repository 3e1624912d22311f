"""The nearest known name to a misspelt one, for error messages."""
import difflib
from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean X?` with the candidate closest to a misspelt name, or "" if none is close."""
    close = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
