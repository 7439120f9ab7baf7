"""Phrases of captions: a window shows one thing, where a whole caption often names several."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def draw_phrases(
    key: jax.Array, tokens: jax.Array, separators: Sequence[int], pad_id: int
) -> jax.Array:
    """Draw one phrase of each caption, with equal probabilities.

    A phrase is a run of words between separators, such as commas and "and". A caption without separators is one
    phrase; one that consists of them stays as it is.

    Args:
      key: key of the global batch.
      tokens: int32 (B, T) captions: [CLS], words, [SEP], then `pad_id`.
      separators: token ids that end a phrase and belong to none.
      pad_id: token id of padding.

    Returns:
      int32 (B, T): [CLS], the phrase, [SEP], then `pad_id`.
    """
    batch, length = tokens.shape
    place = jnp.arange(length, dtype=jnp.int32)[None]
    words = jnp.maximum(jnp.sum(tokens != pad_id, axis=1, keepdims=True) - 2, 0)
    ends = (tokens[..., None] == jnp.asarray(np.asarray(separators, np.int32))).any(axis=-1)
    is_word = (place >= 1) & (place <= words) & ~ends
    starts = is_word & ~jnp.pad(is_word, ((0, 0), (1, 0)))[:, :-1]
    number = jnp.cumsum(starts, axis=1)  # of the phrase that a word belongs to, from 1 on
    count = number[:, -1:]
    chosen = 1 + jax.random.randint(key, (batch, 1), 0, jnp.maximum(count, 1))
    inside = is_word & (number == chosen)
    size = jnp.sum(inside, axis=1, keepdims=True)
    first = jnp.argmax(inside, axis=1, keepdims=True)
    moved = jnp.take_along_axis(tokens, jnp.clip(first + place - 1, 0, length - 1), axis=1)
    end = jnp.take_along_axis(tokens, jnp.minimum(words + 1, length - 1), axis=1)
    phrase = jnp.where(place == 0, tokens, moved)
    phrase = jnp.where(place == size + 1, end, phrase)
    phrase = jnp.where(place > size + 1, jnp.asarray(pad_id, tokens.dtype), phrase)
    return jnp.where(count == 0, tokens, phrase)
