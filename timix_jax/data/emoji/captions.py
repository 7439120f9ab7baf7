"""Captions of a scene: lists of the named drawings in one of several templates."""

from collections.abc import Sequence

import numpy as np

TEMPLATES = (
    "{things}",
    "{things} on a {background} background",
    "a picture of {things}",
    "an image with {things}",
    "a drawing of {things}",
    "stickers of {things}",
    "a page with {things}",
    "here we see {things}",
    "you can see {things}",
    "look at {things}",
    "somebody drew {things}",
    "a small scene with {things}",
)


def write_captions(
    rng: np.random.Generator, phrases: Sequence[str], background: str, count: int = 2
) -> tuple[str, ...]:
    """Write the captions of one scene, each with its own template and, if possible, its own order.

    Args:
      rng: the scene's generator.
      phrases: at least one phrase, one per named concept: "a lemon", "two dogs".
      background: adjective of the background: "striped".
      count: number of captions, at most `len(TEMPLATES)`.

    Returns:
      `count` distinct captions.
    """
    templates = rng.choice(len(TEMPLATES), count, replace=False)
    order = rng.permutation(len(phrases))
    return tuple(
        TEMPLATES[template].format(
            things=join([phrases[i] for i in np.roll(order, shift)]), background=background
        )
        for shift, template in enumerate(templates)
    )


def join(phrases: Sequence[str]) -> str:
    """Join phrases as `"a"`, `"a and b"` or `"a, b and c"`."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last
