"""Captions of a scene: the named drawings, listed and put into one of several templates."""

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
    """Captions of one scene, each by another template and, where it can be, in another order.

    Args:
      rng: the scene's random numbers.
      phrases: what each named concept is called: "a lemon", "two dogs". At least one.
      background: adjective of the background: "striped".
      count: number of captions, at most `len(TEMPLATES)`.

    Returns:
      `count` different captions.
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
    """`"a"`, `"a and b"`, `"a, b and c"`."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last
