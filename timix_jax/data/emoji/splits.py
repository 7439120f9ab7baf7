"""The splits: who draws, what is named, and that no test caption fits another test scene."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from timix_jax.data.emoji.art import VENDORS
from timix_jax.data.emoji.scenes import Plan, plan_scene
from timix_jax.errors import UserError

_TRAINING_VENDORS = (VENDORS.index("Goog"), VENDORS.index("Twtr"))
_HELDOUT_VENDOR = (VENDORS.index("Joy"),)
_TRIES = 40  # plans drawn for a test scene, on average, before the concepts count as too few


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of the data.

    Attributes:
      stream: number of its stream of random scenes.
      scenes: their default number.
      vendors: indices into `VENDORS` of the vendors that draw it.
      names_heldout: captions name only held-out concepts, and not only those of training.
      unique: no caption's concepts are all shown by another scene, so that recall is well defined.
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
    """The random numbers of one scene: the same whichever process draws it."""
    return np.random.default_rng([seed, split.stream, number])


def plan_of(split: Split, rng: np.random.Generator, trained: int, heldout: int) -> Plan:
    """The plan of a split's scene; concepts 0 … trained − 1 are trained, the rest held out."""
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
    """Which scenes of a split's stream are kept.

    A split for training keeps the first `scenes`. A test split skips a scene if the concepts
    that it names are a subset of those that a kept scene shows, or the other way round.

    Raises:
      UserError: if there are too few concepts for so many scenes.
    """
    if not split.unique:
        return range(scenes)
    numbers: list[int] = []
    named = np.zeros((scenes, trained + heldout), np.int32)
    shown = np.zeros((scenes, trained + heldout), np.int32)
    for number in range(scenes * _TRIES):
        if len(numbers) == scenes:
            return numbers
        plan = plan_of(split, scene_rng(seed, split, number), trained, heldout)
        kept = len(numbers)
        named[kept], shown[kept] = 0, 0
        named[kept, list(plan.named)] = 1
        shown[kept, list(plan.concepts)] = 1
        fits_them = shown[:kept] @ named[kept] == len(plan.named)
        theirs_fits = named[:kept] @ shown[kept] == named[:kept].sum(1)
        if not (fits_them.any() or theirs_fits.any()):
            numbers.append(number)
    if len(numbers) == scenes:
        return numbers
    option = "heldout" if split.names_heldout else "concepts"
    raise UserError(
        f"scenes={scenes}: {len(numbers)} test scenes found that no other scene's caption fits; "
        f"give fewer scenes or a larger {option}"
    )
