"""Captions of which some words are hidden (BERT's masking, docs/method.md §5)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.objectives.views.base import Inputs, View
from timix_jax.objectives.vocabulary import Vocabulary

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

Array = jax.Array


class Masked(NamedTuple):
    """Captions with hidden words; P is the largest number of them per caption.

    Attributes:
      tokens: int32 (B, T) what the model reads.
      positions: int32 (B, P) of the hidden words; where `counted` is False they mean nothing.
      labels: int32 (B, P) the hidden words.
      counted: (B, P) bool, True for hidden words.
    """

    tokens: Array
    positions: Array
    labels: Array
    counted: Array


def mask_words(
    key: Array,
    tokens: Array,
    vocabulary: Vocabulary,
    *,
    rate: float,
    most: float,
    kept: float = 0.1,
    swapped: float = 0.1,
) -> Masked:
    """Choose each word with probability `rate`; of the chosen, 80% become [MASK], 10% another word, 10% stay.

    Special tokens are neither chosen nor put in. At most ⌈most·T⌉ words of a caption are chosen, so that shapes are
    static: of more, the surplus is dropped at random and stays readable.

    Args:
      key: of the draw.
      tokens: int32 (B, T) captions.
      vocabulary: says which ids are words.
      rate: share of the words.
      most: largest share of the T positions.
      kept, swapped: shares of the chosen words that stay as they are, and that become a random word.
    """
    length = tokens.shape[1]
    most_words = min(length, math.ceil(most * length))
    mask_id = vocabulary.require_mask("config.loss.mlm")
    choose, treat, draw = jax.random.split(key, 3)
    chance = jax.random.uniform(choose, tokens.shape)
    chosen = vocabulary.is_word(tokens) & (chance < rate)
    # The smallest chances come first: among the chosen, in random order.
    _, positions = jax.lax.top_k(jnp.where(chosen, -chance, -2.0), most_words)
    counted = jnp.take_along_axis(chosen, positions, axis=1)
    labels = jnp.take_along_axis(tokens, positions, axis=1)

    treatment = jax.random.uniform(treat, positions.shape)
    words = vocabulary.word(jax.random.randint(draw, positions.shape, 0, vocabulary.words))
    shown = jnp.where(treatment < kept + swapped, words.astype(tokens.dtype), mask_id)
    shown = jnp.where(counted & (treatment >= kept), shown, labels)
    # Not a scatter, which might gather the captions of all devices.
    here = positions[:, :, None] == jnp.arange(length)
    changed = jnp.sum(jnp.where(here, shown[:, :, None], 0), axis=1, dtype=tokens.dtype)
    read = jnp.where(here.any(axis=1), changed, tokens)
    return Masked(read, positions, labels, counted)


@dataclasses.dataclass(frozen=True)
class MaskedWords(View):
    """The clean images with captions of which some words are hidden.

    Attributes:
      vocabulary: says which ids are words.
      rate, most: as in `mask_words`.
    """

    vocabulary: Vocabulary
    rate: float = 0.15
    most: float = 0.3

    name: ClassVar[str] = "masked"
    has_own_images: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Hide words of all captions."""
        return Inputs(tokens=self.draw(forward).tokens)

    def draw(self, forward: Forward) -> Masked:
        """Return the masked captions of this step, drawn once."""
        return forward.once(
            ("masked", self),
            lambda: mask_words(
                forward.stream("mlm"),
                forward.batch["tokens"],
                self.vocabulary,
                rate=self.rate,
                most=self.most,
            ),
        )
