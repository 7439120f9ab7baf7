"""A large batch through a tower in parts, without keeping the activations of any (cached features)."""

from collections.abc import Callable
from typing import Any

import jax

from timix_jax.errors import UserError
from timix_jax.parallel.layout import Layout

Array = jax.Array


def in_microbatches(
    function: Callable[..., Any], *arrays: Array, count: int, layout: Layout | None
) -> Any:
    """`function(*arrays)` over `count` parts of the rows, one after the other.

    The results are those of the whole batch, so that a contrastive loss keeps all its negatives. Backwards each part
    is computed anew, and the gradients of what `function` closes over, the parameters, are summed: they are those
    of the whole batch, at the memory of one part and one more forward pass.

    Args:
      function: of arrays (b,...), row by row; gives a tree of arrays (b,...).
      arrays: each (B,...).
      count: number of parts; must divide B, and B/count the devices.
      layout: where the rows lie; None for a single device.
    """
    if count == 1:
        return function(*arrays)
    rows = len(arrays[0])
    if rows % count:
        raise UserError(f"{rows} rows do not divide into config.train.accumulate={count} parts")

    def split(x: Array) -> Array:
        # Part i has the rows i, i + count, ...: each device cuts its own rows, and nothing is sent.
        parts = x.reshape(rows // count, count, *x.shape[1:]).swapaxes(0, 1)
        return parts if layout is None else layout.constrain_batch(parts, axis=1)

    def join(x: Array) -> Array:
        whole = x.swapaxes(0, 1).reshape(rows, *x.shape[2:])
        return whole if layout is None else layout.constrain_batch(whole)

    part = jax.checkpoint(lambda xs: function(*xs), prevent_cse=False)
    return jax.tree.map(join, jax.lax.map(part, tuple(split(x) for x in arrays)))
