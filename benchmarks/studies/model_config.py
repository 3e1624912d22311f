"""The configuration that files and `key=value` words make together, as a problem's results depend on it."""
from functools import lru_cache

from arguments import get_args
from configuration.yaml_files import plain


@lru_cache(maxsize=64)
def merged(*words: str) -> dict:
    """Return sections `args`, `model`, `data` and `deepspeed` of these words of a command line, nothing built."""
    return plain(get_args(words).config)
