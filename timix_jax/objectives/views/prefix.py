"""Captions split between two words: a prefix that the encoder reads, and the rest, which the decoder tells."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.objectives.views.base import Inputs, View
from timix_jax.objectives.vocabulary import Vocabulary

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

Array = jax.Array


class Split(NamedTuple):
    """Captions in two parts, all int32 (B, T) and padded.

    Attributes:
      prefix: [CLS], the first words, [SEP]: what the tokenizer makes of them.
      rest: [CLS], the other words, [SEP]: what the decoder reads.
      labels: the token that follows each of `rest`.
      counted: (B, T) bool, True for the positions of `rest` whose label is a word or [SEP].
    """

    prefix: Array
    rest: Array
    labels: Array
    counted: Array


def split_points(tokens: Array, vocabulary: Vocabulary) -> Array:
    """Return bool (B, T): True for the first piece of each word but the first, where a caption may be split."""
    places = jnp.arange(tokens.shape[1])
    inside = (places >= 2) & (places < _end(tokens, vocabulary)[:, None])
    return inside & vocabulary.begins_word(tokens)


def split_words(
    key: Array, tokens: Array, vocabulary: Vocabulary, *, empty_prefix: float = 0.0
) -> Split:
    """Split each caption between two words, all such places being equally likely.

    Both parts have a word at least. A caption of a single word has an empty prefix, [CLS] [SEP].

    Args:
      key: of the draw.
      tokens: int32 (B, T) captions, [CLS] first.
      vocabulary: says where words begin.
      empty_prefix: share of the captions that the decoder tells from the first word on.
    """
    place_key, empty_key = jax.random.split(key)
    allowed = split_points(tokens, vocabulary)
    chance = jax.random.uniform(place_key, tokens.shape)
    place = jnp.argmax(jnp.where(allowed, chance, -1), axis=1)
    whole = jax.random.uniform(empty_key, place.shape) < empty_prefix
    place = jnp.where(jnp.any(allowed, axis=1) & ~whole, place, 1)[:, None]

    length = tokens.shape[1]
    places, end = jnp.arange(length), _end(tokens, vocabulary)[:, None]
    pad, first = vocabulary.pad_id, tokens[:, :1]
    tail = jnp.where(places == place, vocabulary.end_id, pad)
    prefix = jnp.where(places < place, tokens, tail)
    # The rest starts one to the left, where [CLS] takes the place of the last token of the prefix.
    source = places + place - 1
    rolled = jnp.take_along_axis(tokens, jnp.minimum(source, length - 1), axis=1)
    rest = jnp.where(places == 0, first, jnp.where(source <= end, rolled, pad))
    labels = jnp.concatenate([rest[:, 1:], jnp.full_like(first, pad)], axis=1)
    return Split(prefix.astype(tokens.dtype), rest, labels, source < end)


def _end(tokens: Array, vocabulary: Vocabulary) -> Array:
    """Return the position (B,) of the end token, the first one after the start."""
    return 1 + jnp.argmax(tokens[:, 1:] == vocabulary.end_id, axis=1)


@dataclasses.dataclass(frozen=True)
class Prefixes(View):
    """The clean images with the first words of their captions.

    Attributes:
      vocabulary: says where words begin.
      empty_prefix: as in `split_words`.
    """

    vocabulary: Vocabulary
    empty_prefix: float = 0.0

    name: ClassVar[str] = "prefix"
    has_own_images: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Return the prefixes of all captions."""
        return Inputs(tokens=self.draw(forward).prefix)

    def draw(self, forward: Forward) -> Split:
        """Return the split captions of this step, drawn once."""

        def split() -> Split:
            key = forward.stream("prefix")
            tokens = forward.batch["tokens"]
            return split_words(key, tokens, self.vocabulary, empty_prefix=self.empty_prefix)

        return forward.once(("split", self.name), split)
