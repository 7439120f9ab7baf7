"""The splits: their vendors and named concepts, and test scenes that no other caption fits."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from timix_jax.data.emoji.art import VENDORS
from timix_jax.data.emoji.scenes import Plan, plan_scene
from timix_jax.errors import UserError

_TRIES = 40  # plans drawn per test scene, on average, before giving up for lack of concepts
_GALLERY = (
    1_000_000  # first scene of gallery 1; more than `_TRIES` times the scenes of any test split
)


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of the data.

    Attributes:
      stream: number of its stream of random scenes.
      scenes: default number of scenes.
      unseen_vendor: True if the held-out vendor draws it, False if the others do.
      names_heldout: True if captions name only held-out concepts, False if only training concepts.
      unique: True if no scene shows all concepts of another's caption, so that recall is well
        defined.
    """

    stream: int
    scenes: int
    unseen_vendor: bool = False
    names_heldout: bool = False
    unique: bool = True

    def vendors(self, heldout: str) -> tuple[int, ...]:
        """Return the indices into `VENDORS` of the vendors that draw the split, if training never shows `heldout`.

        Raises:
          UserError: there is no such vendor.
        """
        if heldout not in VENDORS:
            raise UserError(f"heldout_vendor={heldout}: must be one of {', '.join(VENDORS)}")
        return tuple(
            index
            for index, vendor in enumerate(VENDORS)
            if (vendor == heldout) == self.unseen_vendor
        )


SPLITS = {
    "train": Split(0, 40_000, unique=False),
    "trained_vendor": Split(1, 500),
    "heldout_vendor": Split(2, 500, unseen_vendor=True),
    "heldout_concepts": Split(3, 200, names_heldout=True),
}


def scene_rng(seed: int, split: Split, number: int) -> np.random.Generator:
    """Return the generator of one scene, which does not depend on the process that draws it."""
    return np.random.default_rng([seed, split.stream, number])


def plan_split_scene(
    split: Split,
    rng: np.random.Generator,
    trained: int,
    heldout: int,
    vendors: Sequence[int],
    *,
    several: bool = False,
) -> Plan:
    """Plan a scene of a split; concepts 0 … trained − 1 are trained, the rest held out.

    With `several`, captions name at least two concepts in the training split, too.
    """
    return plan_scene(
        rng,
        range(trained, trained + heldout) if split.names_heldout else range(trained),
        range(trained),
        vendors,
        min_drawings=3 if split.unique or several else 2,
    )


def scene_numbers(
    split: Split, scenes: int, seed: int, trained: int, heldout: int, gallery: int = 0
) -> Sequence[int]:
    """Choose the scenes of a split's stream.

    A training split keeps the first `scenes`. A test split skips a scene if the concepts it names
    are a subset of those shown by a kept scene, or vice versa; each gallery has scenes of its own.

    Raises:
      UserError: there are too few concepts for this many scenes.
    """
    if not split.unique:
        return range(scenes)
    numbers: list[int] = []
    named = np.zeros((scenes, trained + heldout), np.int32)
    shown = np.zeros((scenes, trained + heldout), np.int32)
    first = gallery * _GALLERY
    for number in range(first, first + scenes * _TRIES):
        if len(numbers) == scenes:
            return numbers
        # What a scene shows does not depend on who draws it.
        plan = plan_split_scene(split, scene_rng(seed, split, number), trained, heldout, (0,))
        kept = len(numbers)
        named[kept], shown[kept] = 0, 0
        named[kept, list(plan.named)] = 1
        shown[kept, list(plan.concepts)] = 1
        fits_kept_scene = shown[:kept] @ named[kept] == len(plan.named)
        kept_caption_fits = named[:kept] @ shown[kept] == named[:kept].sum(1)
        if not (fits_kept_scene.any() or kept_caption_fits.any()):
            numbers.append(number)
    if len(numbers) == scenes:
        return numbers
    option = "heldout" if split.names_heldout else "concepts"
    raise UserError(
        f"scenes={scenes}: only {len(numbers)} test scenes found that no other scene's caption fits; "
        f"give fewer scenes or a larger {option}"
    )
