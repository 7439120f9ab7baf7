"""Dropout in BERT's places, with a mask that depends on the row's key, the layer and the place alone."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array


class Place(enum.IntEnum):
    """What is dropped: values are part of the random stream and never change."""

    EMBEDDINGS = 0
    SELF_WEIGHTS = 1
    SELF_OUTPUT = 2
    CROSS_WEIGHTS = 3
    CROSS_OUTPUT = 4
    MLP_OUTPUT = 5


@struct.dataclass
class Dropout:
    """Dropout of one pass; functions take None in its place for a pass without dropout.

    A mask follows from the keys, so that a rematerialised backward pass, microbatches and any number of devices draw
    the same one.

    Attributes:
      keys: (R,) typed random keys, one per row of what is dropped.
      rate: share of the values that become 0; the others are scaled by 1/(1−rate).

    **Example:** `Dropout.of_rows(key, rows=8, rate=0.1)(x, Place.EMBEDDINGS)`
    """

    keys: Array
    rate: float = struct.field(pytree_node=False)

    @classmethod
    def of_rows(cls, key: Array | None, rows: int, rate: float) -> "Dropout | None":
        """Return dropout for `rows` rows, each with its own key; None without a key or with the rate 0."""
        if key is None or not rate:
            return None
        return cls(jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows)), rate)

    def by_layer(self, depth: int) -> "Dropout":
        """Return the dropout of each of `depth` layers, keys (depth, R), which a loop over the layers slices."""
        of_layer = lambda layer: _fold(self.keys, layer + len(Place))
        return Dropout(jax.vmap(of_layer)(jnp.arange(depth)), self.rate)

    def every(self, groups: int) -> "Dropout":
        """Return the dropout of rows that stand for `groups` consecutive rows each."""
        return Dropout(self.keys[::groups], self.rate)

    def __call__(self, x: Array, place: Place) -> Array:
        """Drop values of x (R, ...)."""
        # A model has dozens of places: no hash to make a key, and no floats, or its step takes much longer to compile.
        bits = jax.vmap(lambda key: jax.random.bits(key, x.shape[1:]))(_at(self.keys, place))
        kept = bits >= np.uint32(self.rate * 2**32)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))


def _at(keys: Array, place: Place) -> Array:
    """Return the keys (R,) of one place: each key of a counter-based generator has its own stream, near ones too."""
    data = jax.random.key_data(keys)
    return jax.random.wrap_key_data(data ^ np.uint32(place + 1), impl=jax.random.key_impl(keys))


def _fold(keys: Array, number: Array | int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def drop(dropout: Dropout | None, x: Array, place: Place) -> Array:
    """Drop values of x (R, ...), or none if there is no dropout."""
    return x if dropout is None else dropout(x, place)
