"""The splits: their vendors and named concepts, and test scenes that no other caption fits."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from timix_jax.data.emoji.art import VENDORS
from timix_jax.data.emoji.scenes import Plan, plan_scene
from timix_jax.errors import UserError

_TRAINING_VENDORS = (VENDORS.index("Goog"), VENDORS.index("Twtr"))
_HELDOUT_VENDOR = (VENDORS.index("Joy"),)
_TRIES = 40  # plans drawn per test scene, on average, before giving up for lack of concepts


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of the data.

    Attributes:
      stream: number of its stream of random scenes.
      scenes: default number of scenes.
      vendors: indices into `VENDORS` of the vendors that draw it.
      names_heldout: True if captions name only held-out concepts, False if only training concepts.
      unique: True if no scene shows all concepts of another's caption, so that recall is well
        defined.
    """

    stream: int
    scenes: int
    vendors: tuple[int, ...]
    names_heldout: bool = False
    unique: bool = True


SPLITS = {
    "train": Split(0, 40_000, _TRAINING_VENDORS, unique=False),
    "trained_vendor": Split(1, 500, _TRAINING_VENDORS),
    "heldout_vendor": Split(2, 500, _HELDOUT_VENDOR),
    "heldout_concepts": Split(3, 200, _TRAINING_VENDORS, names_heldout=True),
}


def scene_rng(seed: int, split: Split, number: int) -> np.random.Generator:
    """Return the generator of one scene, which does not depend on the process that draws it."""
    return np.random.default_rng([seed, split.stream, number])


def plan_split_scene(split: Split, rng: np.random.Generator, trained: int, heldout: int) -> Plan:
    """Plan a scene of a split; concepts 0 … trained − 1 are trained, the rest held out."""
    return plan_scene(
        rng,
        range(trained, trained + heldout) if split.names_heldout else range(trained),
        range(trained),
        split.vendors,
        min_drawings=3 if split.unique else 2,
    )


def scene_numbers(
    split: Split, scenes: int, seed: int, trained: int, heldout: int
) -> Sequence[int]:
    """Choose the scenes of a split's stream.

    A training split keeps the first `scenes`. A test split skips a scene if the concepts it names
    are a subset of those shown by a kept scene, or vice versa.

    Raises:
      UserError: there are too few concepts for this many scenes.
    """
    if not split.unique:
        return range(scenes)
    numbers: list[int] = []
    named = np.zeros((scenes, trained + heldout), np.int32)
    shown = np.zeros((scenes, trained + heldout), np.int32)
    for number in range(scenes * _TRIES):
        if len(numbers) == scenes:
            return numbers
        plan = plan_split_scene(split, scene_rng(seed, split, number), trained, heldout)
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
