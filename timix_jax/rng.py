"""Named random streams: each use of randomness has its own, and a new one shifts no other."""

import zlib

import jax
import numpy as np


def stream(seed_key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of one stream at one step, from the seed alone: a resumed run draws the same numbers.

    Args:
        seed_key: the run's key, `jax.random.key(seed)`; never changed nor split.
        name: what the numbers are for, such as `"mixing"`; any text.
        step: int, scalar; may be traced.

    **Example:** `r = jax.random.randint(stream(key, "window", state.step), (), 3, 8)`
    """
    # hash() differs between processes; the checksum is the same on every host and in every run.
    of_name = jax.random.fold_in(seed_key, np.uint32(zlib.crc32(name.encode("utf-8"))))
    return jax.random.fold_in(of_name, step)
