"""Pairing of rows over the global batch, never per process (docs/method.md §3 and §6, point 1)."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.mixing.dissimilar import least_alike

Pairing = Literal["flip", "derangement", "dissimilar"]

_CANDIDATES = 8  # of which "dissimilar" chooses


def flip(batch: int) -> jax.Array:
    """Return π(k) = B−1−k, int32 (B,), an involution; the middle row of an odd batch is its own partner."""
    return jnp.arange(batch - 1, -1, -1, dtype=jnp.int32)


def derangement(key: jax.Array, batch: int) -> jax.Array:
    """Draw a random cyclic permutation, int32 (B,): for B > 1 no row is its own partner.

    Not an involution: image k carries caption π(k), while caption k is carried by image π⁻¹(k).
    """
    order = jax.random.permutation(key, jnp.arange(batch, dtype=jnp.int32))
    return jnp.zeros(batch, jnp.int32).at[order].set(jnp.roll(order, -1), unique_indices=True)


@dataclasses.dataclass(frozen=True)
class Partners:
    """A pairing rule, and the exchange of values between partners.

    Written as a reversal, the flip of the whole batch costs one permutation between devices. A derangement is a gather
    by computed indices, for which the compiler collects or sums the whole batch on every device.

    Attributes:
      rule: "flip", a random "derangement", or "dissimilar": of eight random partners the one whose caption has least in
        common with the own, so that a row may be the partner of several. `take` and `give` of the last two are correct
        for any π.
      shards: number of equal runs of rows, each paired within itself; 1 pairs the whole batch. With one run per device,
        devices exchange nothing.

    Raises:
      UserError: the rule is unknown, or shards is below 1.
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

    def draw(self, key: jax.Array, batch: int, tokens: jax.Array | None = None) -> jax.Array:
        """Draw the partner of each row, int32 (B,).

        Args:
          key: used by the random rules.
          batch: B.
          tokens: int32 (B, T) captions, which "dissimilar" compares.

        Raises:
          UserError: the rows don't divide over the shards, or "dissimilar" got no captions.
        """
        if self.rule == "dissimilar":
            return self._draw_dissimilar(key, batch, tokens)
        if self.shards == 1:
            return flip(batch) if self.rule == "flip" else derangement(key, batch)
        rows = self._rows_per_shard(batch)
        if self.rule == "flip":
            partner = jnp.broadcast_to(flip(rows), (self.shards, rows))
        else:
            keys = jax.random.split(key, self.shards)
            partner = jax.vmap(lambda key: derangement(key, rows))(keys)
        return (partner + self._first(rows)).reshape(batch)

    def _draw_dissimilar(self, key: jax.Array, batch: int, tokens: jax.Array | None) -> jax.Array:
        if tokens is None:
            raise UserError(
                "mixing partner 'dissimilar' compares captions, of which there are none"
            )
        random = Partners("derangement", self.shards)
        keys = jax.random.split(key, _CANDIDATES)
        return least_alike(tokens, jnp.stack([random.draw(key, batch) for key in keys]))

    def check(self, partner: jax.Array) -> None:
        """Raise a UserError if π is concrete and `take` would not follow it, as the flip follows only one π."""
        if self.rule != "flip" or isinstance(partner, jax.core.Tracer):
            return
        ruled = self.draw(jax.random.key(0), len(partner))
        if not np.array_equal(partner, ruled):
            raise UserError(
                f"partners {np.asarray(partner).tolist()} are not those of partner='flip'; use 'derangement', which"
                " follows any partners"
            )

    def take(self, values: jax.Array, partner: jax.Array) -> jax.Array:
        """Return `values[partner]` along the batch axis."""
        with jax.named_scope(
            "partner_exchange"
        ):  # by which --mode=compile tells it from resharding
            return self._take(values, partner)

    def _take(self, values: jax.Array, partner: jax.Array) -> jax.Array:
        if self.shards == 1:
            return jnp.flip(values, axis=0) if self.rule == "flip" else values[partner]
        cut, local = self._cut(values), self._local(partner)
        if self.rule == "flip":
            return jnp.flip(cut, axis=1).reshape(values.shape)
        return jax.vmap(lambda values, partner: values[partner])(cut, local).reshape(values.shape)

    def give(self, values: jax.Array, partner: jax.Array) -> jax.Array:
        """Apply the transpose of `take`: row j receives the sum of the values of all rows whose partner is j."""
        if self.rule == "flip":
            return self.take(values, partner)
        if self.shards == 1:
            return jnp.zeros_like(values).at[partner].add(values)
        given = jax.vmap(lambda values, partner: jnp.zeros_like(values).at[partner].add(values))(
            self._cut(values), self._local(partner)
        )
        return given.reshape(values.shape)

    def _cut(self, values: jax.Array) -> jax.Array:
        return values.reshape(self.shards, self._rows_per_shard(len(values)), *values.shape[1:])

    def _local(self, partner: jax.Array) -> jax.Array:
        cut = self._cut(partner)
        return cut - self._first(cut.shape[1])

    def _first(self, rows: int) -> jax.Array:
        """Return the first row of each shard, int32 (shards, 1)."""
        return rows * jnp.arange(self.shards, dtype=jnp.int32)[:, None]

    def _rows_per_shard(self, batch: int) -> int:
        if batch % self.shards:
            raise UserError(
                f"within_shard=True: {batch} mixed rows don't divide over {self.shards} shards; change "
                "mix.fraction or train.batch_size so that they do, or set within_shard=False"
            )
        return batch // self.shards


ANY_PARTNERS = Partners("derangement")
"""Exchanges values correctly for any π, however it was made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """The fields of a mixer that pairs rows.

    Attributes:
      partner: pairing rule.
      within_shard: pair only rows of the same device, so that devices exchange no patches. The pairs, and so all
        numbers, then depend on the number of devices.
      shards: number of devices that hold the batch, for `within_shard`.
    """

    partner: Pairing = "flip"
    within_shard: bool = False
    shards: int = dataclasses.field(default=1, metadata={"configured": False})

    def __post_init__(self) -> None:
        """Check the rule."""
        _ = self.partners

    @property
    def partners(self) -> Partners:
        """The rule, over the whole batch or within each shard."""
        return Partners(self.partner, self.shards if self.within_shard else 1)
