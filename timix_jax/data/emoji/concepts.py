"""The choice of the concepts that scenes show, and of those held out of training."""

import dataclasses
from collections import Counter

import cv2
import numpy as np

from timix_jax.data.emoji import art, english
from timix_jax.errors import UserError

# For every vendor, two concepts drawn 20 pixels large must differ by at least this root mean square
# of the colour channels (0–255); otherwise no caption could tell them apart.
_MIN_DIFFERENCE = 35.0
_SIDE = 20
# No head noun may name more than this share of the concepts; faces and flags are large families of
# similar concepts.
_MAX_FAMILY = 1 / 12


@dataclasses.dataclass(frozen=True)
class Concept:
    """A thing that scenes show.

    Attributes:
      key: the key of its drawings, such as `U+1F34B`.
      name: its name, such as `lemon`.
    """

    key: str
    name: str

    def phrase(self, count: int = 1) -> str:
        """Return `"a lemon"`, `"two lemons"` and so on."""
        return english.phrase(self.name, count)


def eligible_concepts() -> list[Concept]:
    """Return all concepts that can be drawn, told apart and counted, sorted by key."""
    keys = art.distinct_keys(art.art_folder())
    concepts = [Concept(key, art.name_of(key) or "") for key in keys]
    return [c for c in concepts if art.is_flag(c.key) or english.is_countable(c.name)]


def choose_concepts(
    count: int, heldout: int, seed: int
) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """Draw concepts at random, skipping those that look like an earlier one.

    Args:
      count: number of concepts.
      heldout: how many of them training never shows.
      seed: seed of the choice.

    Returns:
      The training concepts (count − heldout) and the held-out ones (heldout).

    Raises:
      UserError: there are not enough distinct concepts.
    """
    pool = eligible_concepts()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool))
    chosen: list[Concept] = []
    seen = np.zeros((count, len(art.VENDORS), _SIDE * _SIDE * 3), np.float32)
    families: Counter[str] = Counter()
    for index in order:
        if len(chosen) == count:
            break
        concept = pool[index]
        family = english.head_noun(concept.name)
        if families[family] >= max(1, count * _MAX_FAMILY):
            continue
        look = np.stack([_thumbnail(concept.key, vendor) for vendor in art.VENDORS])
        difference = np.sqrt(np.square(seen[: len(chosen)] - look).mean(-1))
        if difference.size and difference.min() < _MIN_DIFFERENCE:
            continue
        seen[len(chosen)] = look
        families[family] += 1
        chosen.append(concept)
    if len(chosen) < count:
        raise UserError(
            f"concepts={count}: only {len(chosen)} look distinct; give at most that many"
        )
    # Shuffle again, because the family limit favours members that come early in the order.
    chosen = [chosen[index] for index in rng.permutation(count)]
    return tuple(chosen[heldout:]), tuple(chosen[:heldout])


def _thumbnail(key: str, vendor: str) -> np.ndarray:
    """Render a drawing at 20 pixels, centred on a grey square, as float32 (side²·3,)."""
    drawing = art.load_drawing(key, vendor)
    scale = _SIDE / max(drawing.shape[:2])
    height, width = (max(1, round(n * scale)) for n in drawing.shape[:2])
    small = cv2.resize(drawing, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    square = np.full((_SIDE, _SIDE, 3), 128, np.float32)
    top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
    part = square[top : top + height, left : left + width]
    part *= 1 - small[..., 3:] / 255
    part += small[..., :3]
    return square.ravel()
