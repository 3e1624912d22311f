"""References `${...}` in configurations: to other keys, and to those environment variables that the user allows.

A file may come from a stranger, so it cannot read the environment on its own, and none of OmegaConf's other functions.
"""
import re
from collections.abc import Collection, Iterator, Mapping

from omegaconf import OmegaConf

from common.errors import ConfigError
from common.typed import shown

REFERENCE = re.compile(r"\$\{\s*(?:oc\.env:\s*(?P<variable>\w+)\s*(?:,[^${}]*)?|(?P<key>\.*[\w.\[\]-]+))\s*\}")
LONGEST = 100_000  # characters and values that the references of one value stand for, when all are followed


def check_references(config, allowed: Collection[str] = ()) -> None:
    """Check every reference in a configuration without following any.

    `allowed` names environment variables. Raises ConfigError for a reference to another one, to a function, to itself
    by whatever way, and for references that multiply what they refer to.
    """
    tree = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    try:
        _check(tree, allowed)
    except RecursionError as error:
        raise ConfigError("the configuration's references form a chain that is too long") from error


def _check(tree, allowed: Collection[str]) -> None:
    sizes: dict[tuple[str, ...], int] = {}
    for place, text in _texts(tree, ()):
        for match in _references(place, text):
            variable = match["variable"]
            if variable and variable not in allowed:
                raise ConfigError(f"{_dotted(place)} reads the environment variable {variable}; if the file may have "
                                  f"it, add --allow-env {variable}")
        _size(tree, place, sizes)


def _texts(tree, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the place and the text of every value that has a reference."""
    if isinstance(tree, str):
        if "${" in tree:
            yield place, tree
    elif isinstance(tree, Mapping | list):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _texts(value, (*place, str(key)))


def _references(place: tuple[str, ...], text: str) -> list[re.Match]:
    found = list(REFERENCE.finditer(text))
    if text.count("${") != len(found):
        raise ConfigError(f"{_dotted(place)} is {shown(text)}; a reference can be ${{section.key}}, or "
                          "${oc.env:NAME} with --allow-env NAME")
    return found


def _size(tree, place: tuple[str, ...], sizes: dict[tuple[str, ...], int]) -> int:
    """Return how many characters and values a place stands for, all references followed; those missing count 1."""
    if place in sizes:
        if not sizes[place]:
            raise ConfigError(f"{_dotted(place)} refers to itself")
        return sizes[place]
    sizes[place] = 0
    value = _at(tree, place)
    if isinstance(value, Mapping | list):
        keys = value if isinstance(value, Mapping) else range(len(value))
        size = 1 + sum(_size(tree, (*place, str(key)), sizes) for key in keys)
    elif isinstance(value, str):
        size = 1 + len(value) + sum(_size(tree, _target(place, match["key"]), sizes)
                                    for match in _references(place, value) if match["key"])
    else:
        size = 1
    if size > LONGEST and isinstance(value, str):
        raise ConfigError(f"{_dotted(place)}: its references stand for more than {LONGEST} values")
    sizes[place] = size
    return size


def _target(place: tuple[str, ...], key: str) -> tuple[str, ...]:
    """Return the place that a reference names; each leading dot but the first stands for a level above."""
    dots = len(key) - len(key.lstrip("."))
    names = tuple(re.findall(r"[^.\[\]]+", key))
    return (place[:-dots] if dots else ()) + names


def _at(tree, place: tuple[str, ...]):
    for key in place:
        if isinstance(tree, list):
            tree = tree[int(key)] if key.isdecimal() and int(key) < len(tree) else None
        else:
            tree = next((v for k, v in tree.items() if str(k) == key), None) if isinstance(tree, Mapping) else None
    return tree


def _dotted(place: tuple[str, ...]) -> str:
    return ".".join(place) or "the configuration"
