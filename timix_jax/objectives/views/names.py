"""Names of things in captions: which words of a caption name what a region of the batch shows.

A name is the whole text of a region without a leading article, as pieces of the tokenizer: "a hot dog" names `hot dog`,
and `pin ##eap ##ple` is one name. A caption names a thing where these pieces stand one after another and both ends are
borders of words, so that `cat` is not found in `cat ##alogue`, nor `dog` in `dogs`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.objectives.vocabulary import Vocabulary

Array = jax.Array


class Names(NamedTuple):
    """Names of M regions.

    Attributes:
      pieces: int32 (M, L) their tokens, −1 after the last one.
      length: int32 (M,) number of pieces; 0 for a region without a name.
    """

    pieces: Array
    length: Array


class Replacements(NamedTuple):
    """Words that are replaced by regions.

    Attributes:
      at: (B, T) bool, True for all pieces of a name that is replaced.
      region: int32 (B, T) the region that is shown there; elsewhere it means nothing.
      named: (B, T) bool, True for the first piece of each name, replaced or not.
    """

    at: Array
    region: Array
    named: Array


def names_of(tokens: Array, mask: Array, vocabulary: Vocabulary) -> Names:
    """Return the names of regions.

    Args:
      tokens: int32 (M, L) texts of regions.
      mask: (M,) bool, False for rows that are no region, which get no name; nor do texts with an unknown word.
      vocabulary: says which ids are words, articles, and borders of words.
    """
    word = vocabulary.is_word(tokens)
    frame = [
        i for i in (vocabulary.pad_id, vocabulary.start_id, vocabulary.end_id) if i is not None
    ]
    unknown = ~word & ~jnp.isin(tokens, jnp.asarray(frame, tokens.dtype))
    ends = jnp.pad(vocabulary.begins_word(tokens)[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    articles = jnp.asarray(vocabulary.articles, tokens.dtype)
    content = word & ~(jnp.isin(tokens, articles) & ends)
    place = jnp.arange(tokens.shape[1])
    first = jnp.argmax(content, axis=1)[:, None]
    length = jnp.sum(word & (place >= first), axis=1)
    named = mask & content.any(axis=1) & ~unknown.any(axis=1)
    length = jnp.where(named, length, 0).astype(jnp.int32)
    source = jnp.minimum(first + place, tokens.shape[1] - 1)
    pieces = jnp.take_along_axis(tokens, source, axis=1)
    return Names(jnp.where(place < length[:, None], pieces, -1), length)


def find_names(tokens: Array, names: Names, vocabulary: Vocabulary) -> tuple[Array, Array]:
    """Find names in captions int32 (B, T).

    Of names that start at the same word the longest counts, and of names that overlap the first.

    Returns:
      int32 (B, T) the number of pieces of the name that starts at a position, 0 for none; int32 (B, T) the first of
      the regions that have this name, 0 for none.
    """
    width, (regions, longest) = tokens.shape[1], names.pieces.shape
    beyond = ((0, 0), (0, longest))
    ahead = jnp.pad(tokens, beyond, constant_values=vocabulary.pad_id)
    begins = jnp.pad(vocabulary.begins_word(tokens), beyond, constant_values=True)
    # One elementwise expression of (B, T, M), which the compiler reduces without storing it.
    found = begins[:, :width, None] & (names.length > 0)
    for step in range(1 + longest):
        at = slice(step, step + width)
        found &= (names.length != step) | begins[:, at, None]
        if step < longest:
            same = ahead[:, at, None] == names.pieces[:, step]
            found &= same | (names.length <= step)
    order = names.length * regions + jnp.arange(regions - 1, -1, -1)
    best = jnp.max(jnp.where(found, order, 0), axis=2)
    length = best // regions
    place = jnp.arange(width)
    end = jax.lax.cummax(jnp.where(length > 0, place + length, 0), axis=1)
    free = jnp.pad(end, ((0, 0), (1, 0)))[:, :-1] <= place
    length = jnp.where(free, length, 0)
    return length, jnp.where(length > 0, regions - 1 - best % regions, 0)


def draw_replacements(
    key: Array, tokens: Array, names: Names, vocabulary: Vocabulary, *, rate: float
) -> Replacements:
    """Replace each name of captions int32 (B, T) with probability `rate` by a region of that name, all equally likely.

    All pieces of a name show the same region.
    """
    length, first = find_names(tokens, names, vocabulary)
    choose, pick = jax.random.split(key)
    named = length > 0
    chosen = named & (jax.random.uniform(choose, tokens.shape) < rate)
    region = _one_of_the_same_name(jax.random.uniform(pick, tokens.shape), first, names)
    # Each piece follows the last name that starts at it or before it.
    place = jnp.arange(tokens.shape[1])
    start = jax.lax.cummax(jnp.where(named, place, 0), axis=1)
    of_start = lambda x: jnp.take_along_axis(x, start, axis=1)
    at = of_start(chosen) & (place < start + of_start(length))
    return Replacements(at, of_start(region), named)


def _one_of_the_same_name(chance: Array, first: Array, names: Names) -> Array:
    """Return a region with the name of region `first`, number ⌊chance · count⌋ of them, int32 of the shape of both."""
    same = jnp.all(names.pieces[:, None] == names.pieces, axis=2)
    count, concept = jnp.sum(same, axis=1), jnp.argmax(same, axis=1)
    by_concept = jnp.argsort(concept, stable=True)
    before = jnp.sum(concept < concept[:, None], axis=1)  # regions of earlier concepts
    number = jnp.minimum((chance * count[first]).astype(jnp.int32), count[first] - 1)
    return by_concept[before[first] + number].astype(jnp.int32)
