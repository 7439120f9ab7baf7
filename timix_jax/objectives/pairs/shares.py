"""The share of each caption in each mixed image (docs/method.md §4), as an operator on rows and as a matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.mixing.base import Mixed
from timix_jax.mixing.partners import Partners
from timix_jax.objectives.pairs.tiles import LOWEST, apart_pairs

Array = jax.Array


class Shares(NamedTuple):
    """The matrix A = diag(λ) + Σ_j diag(w_j)·P[π_j], whose row k holds the share of each caption in mixed image k.

    Attributes:
      lam: (B,) λ, the weight of each row's own caption.
      partner: int32 (B,) or (B, K), π.
      partners: the rule that made π and that exchanges values between devices.
      weight: (B,) or (B, K), the weight w of each partner's caption; None for 1 − λ. A row's weights need not add
        to 1.
      apart: int32 (B,) or (B, K), other rows that row k shares content with: neither image k and their captions nor
        caption k and their images are compared. None: all pairs are compared.
    """

    lam: Array
    partner: Array
    partners: Partners
    weight: Array | None = None
    apart: Array | None = None

    @classmethod
    def of(cls, mixed: Mixed, partners: Partners) -> "Shares":
        """Return the shares of a mixed batch; by default its partner has the weight 1 − λ."""
        shares = cls(mixed.lam, mixed.partner, partners, mixed.partner_weight, mixed.apart)
        if shares.other.shape != mixed.partner.shape:
            raise ValueError(
                f"partner {mixed.partner.shape} and its weights {shares.other.shape} differ in shape; with several"
                " partners give Mixed.partner_weight, one for each"
            )
        return shares

    @classmethod
    def own(cls, rows: int) -> "Shares":
        """Return the shares of unmixed images: λ = 1, every row its own partner."""
        itself = jnp.arange(rows, dtype=jnp.int32)
        # With one shard per row the flip is the identity, and devices exchange nothing.
        return cls(jnp.ones(rows, jnp.float32), itself, Partners("flip", shards=rows))

    @property
    def other(self) -> Array:
        """Weights of the partners' captions, shaped like `partner`."""
        return 1 - self.lam if self.weight is None else self.weight

    def total(self) -> Array:
        """Return the sum of each row of A, (B,)."""
        if self.weight is None:
            return jnp.ones(len(self.lam), self.lam.dtype)
        return self.lam + self.weight.reshape(len(self.lam), -1).sum(axis=1)

    def mix(self, rows: Array) -> Array:
        """Return A·rows, (B, ...)."""
        mixed = _column(self.lam, rows) * rows
        for other, partner in self._each():
            mixed = mixed + _column(other, rows) * self.partners.take(rows, partner)
        return mixed

    def spread(self, rows: Array) -> Array:
        """Return Aᵀ·rows, (B, ...)."""
        spread = _column(self.lam, rows) * rows
        for other, partner in self._each():
            spread = spread + self.partners.give(_column(other, rows) * rows, partner)
        return spread

    def matrix(self) -> Array:
        """Return A (B, B)."""
        column = jnp.arange(len(self.lam), dtype=self.partner.dtype)
        own = (column[:, None] == column[None, :]).astype(self.lam.dtype)
        matrix = self.lam[:, None] * own
        for other, partner in self._each():
            where = (partner[:, None] == column[None, :]).astype(self.lam.dtype)
            matrix = matrix + other[:, None] * where
        return matrix

    def apart_columns(self) -> Array | None:
        """Return `apart` as int32 (B, K), or None."""
        return None if self.apart is None else self.apart.reshape(len(self.lam), -1)

    def without_apart(self, matrix: Array) -> Array:
        """Return similarities (B, B) with a value far below any other where pairs are not compared."""
        apart = self.apart_columns()
        if apart is None:
            return matrix
        index = jnp.arange(len(matrix), dtype=apart.dtype)
        # Finite, since the target 0 times −∞ would be NaN.
        return jnp.where(apart_pairs(index, apart, index, apart), LOWEST, matrix)

    def mix_columns(self, matrix: Array) -> Array:
        """Return matrix·Aᵀ for a matrix (M, B), by plain indexing."""
        mixed = self.lam[None, :] * matrix
        for other, partner in self._each():
            mixed = mixed + other[None, :] * matrix[:, partner]
        return mixed

    def mix_rows(self, matrix: Array) -> Array:
        """Return A·matrix for a matrix (B, M), by plain indexing: the reference for `mix`."""
        mixed = self.lam[:, None] * matrix
        for other, partner in self._each():
            mixed = mixed + other[:, None] * matrix[partner]
        return mixed

    def _each(self) -> list[tuple[Array, Array]]:
        if self.partner.ndim == 1:
            return [(self.other, self.partner)]
        return list(zip(self.other.T, self.partner.T, strict=True))


def _column(weight: Array, rows: Array) -> Array:
    return weight.reshape(-1, *[1] * (rows.ndim - 1))
