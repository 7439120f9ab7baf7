"""The loss over all image-text pairs of a batch: which one, and how it is computed."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.objectives.base import Array
from timix_jax.objectives.pairs import tiled_pair_loss
from timix_jax.objectives.pairs.mixed_target import MixedTarget
from timix_jax.objectives.pairs.pair_sweep import DENSE, PairReduction
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.soft_cross_entropy import (
    sigmoid_contrastive,
    soft_contrastive,
    symmetric_contrastive,
)

LossKind = Literal["softmax", "sigmoid"]


@dataclasses.dataclass(frozen=True)
class PairLoss:
    """A contrastive loss over the global batch; method "dense" is the twin that the others match.

    Attributes:
      kind: "softmax", cross-entropy in both directions (CLIP); "sigmoid", a binary decision a pair
        (SigLIP, arXiv 2303.15343), whose one target for a pair is the image's and whose predictions
        are σ(s) instead of softmaxes.
      reduction: how the pairs are gone through.

    Raises:
      UserError: an unknown kind.

    **Example:**

        loss = PairLoss("sigmoid", PairReduction("ring", chunk=1024, mesh=mesh))
        value, hits = loss.plain(Similarities(image, text, temperature, bias))
    """

    kind: LossKind = "softmax"
    reduction: PairReduction = DENSE

    def __post_init__(self) -> None:
        if self.kind not in get_args(LossKind):
            raise UserError(
                f"contrastive.loss={self.kind!r} is unknown; use one of "
                f"{', '.join(get_args(LossKind))}"
            )

    def plain(self, s: Similarities) -> tuple[Array, Array]:
        """Image k matches caption k alone: the loss, and the hits (B,) bool.

        A hit is an own pair that is more similar than all others of its row and of its column; ties
        count as misses.
        """
        s = self._checked(s)
        if self.reduction.method != "dense":
            return tiled_pair_loss.plain(self.kind, s, self.reduction)
        matrix = s.matrix()
        if self.kind == "softmax":
            return symmetric_contrastive(matrix), _hits(matrix)
        return sigmoid_contrastive(matrix, jnp.eye(len(matrix), dtype=matrix.dtype)), _hits(matrix)

    def distilled(
        self, s: Similarities, teacher: Similarities, alpha: Array | float
    ) -> tuple[Array, Array]:
        """As `plain`, with targets (1−α)·own pair + α·the teacher's prediction (docs/method.md §5, ITC)."""
        s, teacher = self._checked(s), self._checked(teacher.constant())
        if self.reduction.method != "dense":
            return tiled_pair_loss.distilled(self.kind, s, teacher, alpha, self.reduction)
        matrix, predicted = s.matrix(), teacher.matrix()
        own = jnp.eye(len(matrix), dtype=matrix.dtype)
        if self.kind == "sigmoid":
            target = alpha * jax.nn.sigmoid(predicted) + (1 - alpha) * own
            return sigmoid_contrastive(matrix, target), _hits(matrix)
        i2t = alpha * jax.nn.softmax(predicted) + (1 - alpha) * own
        t2i = alpha * jax.nn.softmax(predicted.T) + (1 - alpha) * own
        return soft_contrastive(matrix, i2t, t2i), _hits(matrix)

    def mixed(self, s: Similarities, target: MixedTarget) -> Array:
        """L_mix of the mixed images' similarities (docs/method.md §4)."""
        s = self._checked(s)
        if target.reference is None and target.name != "hard":
            raise UserError(f"mix.target={target.name!r} needs the unmixed batch's similarities")
        if self.reduction.method != "dense":
            return tiled_pair_loss.mixed(self.kind, s, target, self.reduction)
        matrix = s.matrix()
        if self.kind == "sigmoid":
            return sigmoid_contrastive(matrix, target.sigmoid_matrix(matrix))
        return soft_contrastive(matrix, *target.softmax_matrices(matrix))

    def _checked(self, s: Similarities) -> Similarities:
        if self.kind == "sigmoid" and s.bias is None:
            raise UserError(
                "contrastive.loss='sigmoid' needs a model with a logit bias: set logit_bias_init"
            )
        return s


DENSE_SOFTMAX = PairLoss()


def _hits(matrix: Array) -> Array:
    own = jnp.diagonal(matrix)
    others = jnp.where(jnp.eye(len(own), dtype=bool), -jnp.inf, matrix)
    return own > jnp.maximum(jnp.max(others, axis=1), jnp.max(others, axis=0))
