"""What the pairs of a mixed batch should be (docs/method.md §4): as matrices, and as maps of embeddings."""

from typing import NamedTuple

import jax

from timix_jax.mixing.partners import Partners
from timix_jax.mixing.targets import TargetName, Targets, mixed_targets, sigmoid_target
from timix_jax.objectives.base import Array
from timix_jax.objectives.pairs.similarities import Similarities


class MixedTarget(NamedTuple):
    """A target of `mixing.targets` with what it is made of; A = λ·I + (1−λ)·I[π].

    Attributes:
      name: which one.
      lam, partner: (B,) λ and π.
      partners: the rule that made π, by which values are exchanged.
      reference: similarities of the unmixed batch; None will do for "hard", which reads none.
      beta: weight of the hard part of "blend".
      label_smoothing: of the hard part.
    """

    name: TargetName
    lam: Array
    partner: Array
    partners: Partners
    reference: Similarities | None = None
    beta: float = 0.5
    label_smoothing: float = 0.0

    def softmax_matrices(self, s: Array) -> Targets:
        """(i2t, t2i), each (B, B); `s` (B, B) stands in for a reference that is not read."""
        return mixed_targets(
            self.name,
            self.lam,
            self.partner,
            self._reference_matrix(s),
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )

    def sigmoid_matrix(self, s: Array) -> Array:
        """The one target (B, B) of the sigmoid loss; `s` as in `softmax_matrices`."""
        return sigmoid_target(
            self.name,
            self.lam,
            self.partner,
            self._reference_matrix(s),
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )

    def mix(self, rows: Array) -> Array:
        """A·rows, (B, ...)."""
        lam = self.lam.reshape(-1, *[1] * (rows.ndim - 1))
        return lam * rows + (1 - lam) * self.partners.take(rows, self.partner)

    def spread(self, rows: Array) -> Array:
        """Aᵀ·rows, (B, ...)."""
        lam = self.lam.reshape(-1, *[1] * (rows.ndim - 1))
        return lam * rows + self.partners.give((1 - lam) * rows, self.partner)

    def _reference_matrix(self, s: Array) -> Array:
        return jax.lax.stop_gradient(s if self.reference is None else self.reference.matrix())
