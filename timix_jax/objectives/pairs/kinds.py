"""The kinds of contrastive loss, softmax (CLIP) and sigmoid (SigLIP), each as a dense matrix and as sums over tiles.

A new kind is one class here and one line in `KINDS`; `config.contrastive.loss` chooses it.
"""

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.soft_cross_entropy import (
    sigmoid_contrastive,
    soft_contrastive,
    symmetric_contrastive,
)
from timix_jax.objectives.pairs.sums import (
    Kernel,
    pair_attention,
    pair_logsumexp,
    pair_softplus,
)
from timix_jax.objectives.pairs.sweep import PairReduction

Array = jax.Array


class TargetMoments(NamedTuple):
    """The sums over one direction's target T that the loss depends on.

    Apart from the partition function, a cross-entropy against T is linear in the similarities:

        Σ_j −T_kj log softmax(s_k)_j = (Σ_j T_kj)·logsumexp_j s_kj − ⟨x_k, Σ_j T_kj t_j⟩ / τ

    so neither T nor s has to be a matrix.

    Attributes:
      embedding: (B, D) Σ_j T_kj · embedding_j.
      total: (B,) Σ_j T_kj.
    """

    embedding: Array
    total: Array


class LossKind(abc.ABC):
    """One kind of loss over all pairs; the dense form is the reference for the tiled one.

    Attributes:
      name: key in `KINDS` and kernel of `sums.pair_attention`.
      one_target: True if a pair has one target, the image's, for both directions.
    """

    name: ClassVar[Kernel]
    one_target: ClassVar[bool] = False

    def check(self, s: Similarities) -> None:
        """Raise a UserError if this kind cannot use the similarities."""
        del s

    @abc.abstractmethod
    def own_dense(self, matrix: Array) -> Array:
        """Return the loss of similarities (B, B) whose matches are the diagonal."""

    @abc.abstractmethod
    def predict(self, matrix: Array) -> Array:
        """Return the predictions (B, B) of similarities (B, B), row by row."""

    @abc.abstractmethod
    def dense(self, matrix: Array, i2t: Array, t2i: Array) -> Array:
        """Return the loss of similarities (B, B) against a target (B, B) per direction."""

    @abc.abstractmethod
    def tiled(
        self,
        s: Similarities,
        by_image: TargetMoments,
        by_text: TargetMoments,
        reduction: PairReduction,
        apart: Array | None = None,
    ) -> tuple[Array, Array]:
        """Return the loss against targets given as moments, and the hits (B,).

        `apart` (B, K) names pairs that are left out (`sums`); their target must be 0.
        """

    def attended(
        self, reference: Similarities, values: Array, reduction: PairReduction
    ) -> TargetMoments:
        """Return Σ_j w_kj·values_j and Σ_j w_kj, where w are the predictions of `reference`."""
        scale, bias = scale_and_bias(reference)
        ones = jnp.ones(len(values), precise(values).dtype)
        return TargetMoments(
            *pair_attention(
                *(reference.image, reference.text, values, ones, scale, bias),
                self.name,
                reduction,
            )
        )


class Softmax(LossKind):
    """Cross-entropy in both directions (CLIP)."""

    name: ClassVar[Kernel] = "softmax"

    def own_dense(self, matrix: Array) -> Array:
        """Return symmetric InfoNCE, without building a target."""
        return symmetric_contrastive(matrix)

    def predict(self, matrix: Array) -> Array:
        """Return the softmax of each row."""
        return jax.nn.softmax(matrix, axis=1)

    def dense(self, matrix: Array, i2t: Array, t2i: Array) -> Array:
        """Return the mean of the two cross-entropies."""
        return soft_contrastive(matrix, i2t, t2i)

    def tiled(
        self,
        s: Similarities,
        by_image: TargetMoments,
        by_text: TargetMoments,
        reduction: PairReduction,
        apart: Array | None = None,
    ) -> tuple[Array, Array]:
        """Return the mean of the two cross-entropies, and the hits (B,)."""
        scale = 1 / s.temperature
        rows, columns, hits = pair_logsumexp(s.image, s.text, scale, reduction, apart)
        images = by_image.total * rows - scale * _dot(s.image, by_image.embedding)
        texts = by_text.total * columns - scale * _dot(s.text, by_text.embedding)
        return (jnp.mean(images) + jnp.mean(texts)) / 2, hits


class Sigmoid(LossKind):
    """A binary decision for every pair (SigLIP, arXiv 2303.15343).

    A pair has one target, the image's; predictions are σ(s) instead of softmaxes.
    """

    name: ClassVar[Kernel] = "sigmoid"
    one_target: ClassVar[bool] = True

    def check(self, s: Similarities) -> None:
        """Raise a UserError if the model has no logit bias."""
        if s.bias is None:
            raise UserError(
                "contrastive.loss='sigmoid' needs a model with a logit bias: set logit_bias_init"
            )

    def own_dense(self, matrix: Array) -> Array:
        """Return the binary cross-entropy of all pairs."""
        return sigmoid_contrastive(matrix, jnp.eye(len(matrix), dtype=matrix.dtype))

    def predict(self, matrix: Array) -> Array:
        """Return σ(s) of every pair; rows need not add to 1."""
        return jax.nn.sigmoid(matrix)

    def dense(self, matrix: Array, i2t: Array, t2i: Array) -> Array:
        """Return the binary cross-entropy against the image's target."""
        del t2i
        return sigmoid_contrastive(matrix, i2t)

    def tiled(
        self,
        s: Similarities,
        by_image: TargetMoments,
        by_text: TargetMoments,
        reduction: PairReduction,
        apart: Array | None = None,
    ) -> tuple[Array, Array]:
        """Return the binary cross-entropy against the image's target, and the hits (B,)."""
        del by_text
        assert s.bias is not None
        scale = 1 / s.temperature
        rows, hits = pair_softplus(s.image, s.text, scale, s.bias, reduction, apart)
        matched = scale * _dot(s.image, by_image.embedding)
        return jnp.mean(rows - matched - s.bias * by_image.total), hits


KINDS: dict[str, LossKind] = {"softmax": Softmax(), "sigmoid": Sigmoid()}


def loss_kind(name: str) -> LossKind:
    """Return the kind with this name; a UserError lists the known names."""
    if name not in KINDS:
        raise UserError(f"contrastive.loss={name!r} is unknown; use one of {', '.join(KINDS)}")
    return KINDS[name]


def scale_and_bias(s: Similarities) -> tuple[Array, Array]:
    """Return 1/τ and the bias, which is 0 for a model without one."""
    scale = 1 / s.temperature
    return scale, jnp.zeros_like(scale) if s.bias is None else s.bias


def precise(x: Array) -> Array:
    """Return x in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _dot(a: Array, b: Array) -> Array:
    """Return the dot product of matching rows, (B,)."""
    return jnp.sum(precise(a) * precise(b), axis=1)
