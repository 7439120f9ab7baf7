"""Who is mixed with whom, over the global batch (docs/method.md §3; never per process: §6, point 1)."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError

Pairing = Literal["flip", "derangement"]


def flip(batch: int) -> jax.Array:
    """π(k) = B−1−k, int32 (B,), an involution; an odd batch's middle is its own partner."""
    return jnp.arange(batch - 1, -1, -1, dtype=jnp.int32)


def derangement(key: jax.Array, batch: int) -> jax.Array:
    """A random cyclic permutation, int32 (B,): no row is its own partner if B > 1, odd or even.

    Not an involution: image k carries caption π(k), while caption k is carried by image π⁻¹(k).
    """
    order = jax.random.permutation(key, jnp.arange(batch, dtype=jnp.int32))
    return jnp.zeros(batch, jnp.int32).at[order].set(jnp.roll(order, -1), unique_indices=True)


@dataclasses.dataclass(frozen=True)
class Partners:
    """A rule of pairing, and how values go from partner to partner by it.

    Attributes:
      rule: "flip", or a random "derangement", whose `take` and `give` are right for any π.
      shards: the batch is cut into so many equal runs of rows, and rows are paired within theirs.
        With as many as there are devices, nothing goes between devices; 1 = the whole batch.

    Between devices the flip of the whole batch is one permutation, as it is written as a reversal. A
    gather by computed indices makes the compiler collect or sum the whole batch on every device:
    that is what a derangement costs there.

    Raises:
      UserError: an unknown rule, or shards below 1.
    """

    rule: Pairing = "flip"
    shards: int = 1

    def __post_init__(self) -> None:
        if self.rule not in get_args(Pairing):
            raise UserError(
                f"mixing partner {self.rule!r} is unknown; use one of {get_args(Pairing)}"
            )
        if self.shards < 1:
            raise UserError(f"mixing within shards={self.shards}: give at least 1")

    def draw(self, key: jax.Array, batch: int) -> jax.Array:
        """Partner of each row, int32 (B,); `key` is used by the random rule only."""
        if self.shards == 1:
            return flip(batch) if self.rule == "flip" else derangement(key, batch)
        rows = self._rows_a_shard(batch)
        if self.rule == "flip":
            partner = jnp.broadcast_to(flip(rows), (self.shards, rows))
        else:
            keys = jax.random.split(key, self.shards)
            partner = jax.vmap(lambda key: derangement(key, rows))(keys)
        return (partner + self._first(rows)).reshape(batch)

    def check(self, partner: jax.Array) -> None:
        """Raises a UserError for a known π that `take` would not follow: the flip knows one only."""
        if self.rule != "flip" or isinstance(partner, jax.core.Tracer):
            return
        ruled = self.draw(jax.random.key(0), len(partner))
        if not np.array_equal(partner, ruled):
            raise UserError(
                f"partners {np.asarray(partner).tolist()} are not those of partner='flip'; use 'derangement', which"
                " follows any"
            )

    def take(self, values: jax.Array, partner: jax.Array) -> jax.Array:
        """`values[partner]` along the batch axis."""
        with jax.named_scope("partner_exchange"):  # how --mode=compile tells it from resharding
            return self._take(values, partner)

    def _take(self, values: jax.Array, partner: jax.Array) -> jax.Array:
        if self.shards == 1:
            return jnp.flip(values, axis=0) if self.rule == "flip" else values[partner]
        cut, local = self._cut(values), self._local(partner)
        if self.rule == "flip":
            return jnp.flip(cut, axis=1).reshape(values.shape)
        return jax.vmap(lambda values, partner: values[partner])(cut, local).reshape(values.shape)

    def give(self, values: jax.Array, partner: jax.Array) -> jax.Array:
        """The transpose of `take`: row j gets the sum of the values of the rows that it partners."""
        if self.rule == "flip":
            return self.take(values, partner)
        if self.shards == 1:
            return jnp.zeros_like(values).at[partner].add(values)
        given = jax.vmap(lambda values, partner: jnp.zeros_like(values).at[partner].add(values))(
            self._cut(values), self._local(partner)
        )
        return given.reshape(values.shape)

    def _cut(self, values: jax.Array) -> jax.Array:
        return values.reshape(self.shards, self._rows_a_shard(len(values)), *values.shape[1:])

    def _local(self, partner: jax.Array) -> jax.Array:
        cut = self._cut(partner)
        return cut - self._first(cut.shape[1])

    def _first(self, rows: int) -> jax.Array:
        """The first row of each shard, int32 (shards, 1)."""
        return rows * jnp.arange(self.shards, dtype=jnp.int32)[:, None]

    def _rows_a_shard(self, batch: int) -> int:
        if batch % self.shards:
            raise UserError(
                f"within_shard=True: {batch} mixed rows don't divide over {self.shards} shards; change "
                "mix.fraction or train.batch_size so that they do, or set within_shard=False"
            )
        return batch // self.shards


# For a π of unknown making.
ANY_PARTNERS = Partners("derangement")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """The fields of a mixer that pairs rows.

    Attributes:
      partner: rule of pairing.
      within_shard: pair rows of one device only, so that no patches go between devices. Then which
        rows can meet depends on the number of devices, and so do the numbers.
      shards: devices that the batch lies on, for `within_shard`.
    """

    partner: Pairing = "flip"
    within_shard: bool = False
    shards: int = dataclasses.field(default=1, metadata={"configured": False})

    def __post_init__(self) -> None:
        """Checks the rule."""
        _ = self.partners

    @property
    def partners(self) -> Partners:
        """The rule over the whole batch or within each shard of it."""
        return Partners(self.partner, self.shards if self.within_shard else 1)
