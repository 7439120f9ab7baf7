"""Named random streams: each use of randomness has its own, and adding one does not change the others."""

import zlib

import jax
import numpy as np


def stream(seed_key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """Return the key of one stream at one step; it depends only on the seed, so a resumed run draws the same numbers.

    Args:
      seed_key: The run's key, `jax.random.key(seed)`, which is never split.
      name: Purpose of the numbers, such as `"mixing"`; any text.
      step: Scalar int; may be traced.

    **Example:** `r = jax.random.randint(stream(key, "window", state.step), (), 3, 8)`
    """
    # hash() differs between processes; a checksum is the same on every host and in every run.
    of_name = jax.random.fold_in(seed_key, np.uint32(zlib.crc32(name.encode("utf-8"))))
    return jax.random.fold_in(of_name, step)
