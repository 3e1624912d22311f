"""The grammars of captions beside the first one (shapes_world.Combination): their names, and what each can do."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.numbers_world import KINDS, NumberedShape, draw_numbers, parse_numbers, render_numbers
from tools.relations_world import RelatedShapes, draw_relation, parse_relation, render_relation

Scene = NumberedShape | RelatedShapes


@dataclass(frozen=True)
class Grammar:
    """A grammar of captions, by what its module does.

    `draw(rng, kind)` returns a scene that training may show (kind None) or never shows, `render(scene, rng)` a clip,
    `parse(text)` the scene of a caption. `kinds` are those of what training never shows.
    """

    draw: Callable[[np.random.Generator, str | None], Any]
    render: Callable[[Any, np.random.Generator], np.ndarray]
    parse: Callable[[str], Any]
    kinds: tuple[str, ...]


GRAMMARS = {
    "numbers": Grammar(draw_numbers, lambda scene, rng: render_numbers(scene), parse_numbers, KINDS),
    "relations": Grammar(draw_relation, render_relation, parse_relation, ("combination",)),
}


def scenes_of(name: str, unseen: bool, count: int, root: list[int]) -> list[tuple[Scene, np.random.SeedSequence]]:
    """Return `count` scenes of a grammar, each with the seed of its clip; scene `i` depends on the root and `i` alone.

    Unseen scenes go through the kinds in turn.
    """
    grammar, scenes = GRAMMARS[name], []
    for index in range(count):
        kind = grammar.kinds[index % len(grammar.kinds)] if unseen else None
        scenes.append((grammar.draw(np.random.default_rng([*root, 0, index]), kind),
                       np.random.SeedSequence([*root, 1, index])))
    return scenes


def render_scene(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return a clip (17, 64, 64, 3) uint8 of a scene of either grammar."""
    return GRAMMARS["numbers" if isinstance(scene, NumberedShape) else "relations"].render(scene, rng)


def parse_scene(text: str) -> Scene:
    """Return what a caption of either grammar says. Raises ValueError for any other text."""
    said = []
    for grammar in GRAMMARS.values():
        try:
            return grammar.parse(text)
        except ValueError as error:
            said.append(str(error))
    raise ValueError("; ".join(said))
