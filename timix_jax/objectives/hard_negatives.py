"""Hard negatives for matching: which other image or caption each row is paired with (docs/method.md §5)."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError

Array = jax.Array
Candidates = Literal["global", "device"]

# Below any similarity over a temperature; a row of nothing else has no candidate.
_BARRED = -jnp.inf


class Negatives(NamedTuple):
    """One negative per row.

    Attributes:
      index: int32 (B,) global row of the negative.
      found: (B,) bool, False for a row without a candidate, whose index means nothing.
    """

    index: Array  # type: ignore[assignment]
    found: Array


def check_candidates(candidates: str) -> None:
    """Raise a UserError for an unknown set of candidates."""
    if candidates not in get_args(Candidates):
        known = " or ".join(map(repr, get_args(Candidates)))
        raise UserError(f"itm.candidates={candidates!r} is unknown; use {known}")


def draw_negatives(key: Array, logits: Array, barred: Array) -> Negatives:
    """Draw one column per row with probability ∝ exp(logit), among those that are not barred.

    Gumbel-max: the largest of logit + noise has that distribution. Nothing is normalised, so that no similarity,
    however peaked, gives a sum of 0. The noise of a pair follows from the key, the row and the column alone, whatever
    devices hold them.

    Args:
      key: of the draw.
      logits: (B, M) float32.
      barred: (B, M) bool, True for columns that must not be drawn.
    """
    rows, columns = logits.shape
    noise = lambda row: jax.random.gumbel(jax.random.fold_in(key, row), (columns,), logits.dtype)
    drawn = jnp.where(barred, _BARRED, logits + jax.vmap(noise)(jnp.arange(rows)))
    index = jnp.argmax(drawn, axis=1).astype(jnp.int32)
    return Negatives(index, jnp.any(~barred, axis=1))


def same_pairs(tokens: Array, image_ids: Array | None, shards: int = 1) -> Array:
    """Return bool (B, B): True where row and column must not be each other's negatives.

    Such are a row itself, rows of the same image, and rows with equal captions: two captions of one image are both
    right. A true pair would be trained as false.

    Args:
      tokens: int32 (B, T) captions.
      image_ids: int32 (B,) equal for rows of the same image; None if they are not known.
      shards: number of equal parts of the batch; negatives come from the row's own part.
    """
    rows = len(tokens)
    index = jnp.arange(rows)
    barred = index[:, None] == index
    barred |= (tokens[:, None] == tokens).all(axis=2)
    if image_ids is not None:
        barred |= image_ids[:, None] == image_ids
    if shards > 1:
        part = index // (rows // shards)
        barred |= part[:, None] != part
    return barred
