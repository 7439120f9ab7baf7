"""Run a large batch through a tower in parts without saving activations (gradient caching)."""

from collections.abc import Callable
from typing import Any

import jax

from timix_jax.errors import UserError
from timix_jax.parallel.layout import Layout

Array = jax.Array


def in_microbatches(
    function: Callable[..., Any], *arrays: Any, count: int, layout: Layout | None
) -> Any:
    """Compute `function(*arrays)` in `count` parts of the rows, one after another.

    The results are those of the whole batch, so a contrastive loss keeps all its negatives. The backward pass
    recomputes each part and sums the gradients of the parameters that `function` closes over: they equal those of the
    whole batch, for the memory of one part and the time of one more forward pass.

    Args:
      function: maps arrays (b, ...) row by row to a tree of arrays (b, ...).
      *arrays: each a tree of arrays (B, ...).
      count: number of parts; divides B, and the number of devices divides B/count.
      layout: how rows are split over devices; None for a single device.

    Returns:
      A tree of arrays (B, ...).
    """
    if count == 1:
        return function(*arrays)
    rows = len(jax.tree.leaves(arrays)[0])
    if rows % count:
        raise UserError(f"{rows} rows do not divide into config.train.accumulate={count} parts")

    def split(x: Array) -> Array:
        # Part i has the rows i, i + count, ...: each device splits its own rows and sends nothing.
        parts = x.reshape(rows // count, count, *x.shape[1:]).swapaxes(0, 1)
        return parts if layout is None else layout.constrain_batch(parts, axis=1)

    def join(x: Array) -> Array:
        whole = x.swapaxes(0, 1).reshape(rows, *x.shape[2:])
        return whole if layout is None else layout.constrain_batch(whole)

    part = jax.checkpoint(lambda xs: function(*xs), prevent_cse=False)
    return jax.tree.map(join, jax.lax.map(part, jax.tree.map(split, arrays)))
