"""The kinds of contrastive loss: softmax (CLIP) and sigmoid (SigLIP), each dense and by sums over tiles.

A new kind is one class here and one line in `KINDS`; it is chosen by `config.contrastive.loss`.
"""

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.pair_sums import (
    Kernel,
    pair_attention,
    pair_logsumexp,
    pair_softplus,
)
from timix_jax.objectives.pairs.pair_sweep import PairReduction
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.soft_cross_entropy import (
    sigmoid_contrastive,
    soft_contrastive,
    symmetric_contrastive,
)

Array = jax.Array


class TargetMoments(NamedTuple):
    """A target T of one direction, as far as the loss depends on it.

    A cross-entropy against T is linear in the similarities but for the partition function:

        Σ_j −T_kj log softmax(s_k)_j = (Σ_j T_kj)·logsumexp_j s_kj − ⟨x_k, Σ_j T_kj t_j⟩ / τ

    so that neither T nor s has to be a matrix.

    Attributes:
      embedding: (B, D) Σ_j T_kj · embedding_j.
      total: (B,) Σ_j T_kj.
    """

    embedding: Array
    total: Array


class LossKind(abc.ABC):
    """One kind of loss over all pairs, dense and by tiles; the dense form is the reference of the other."""

    name: ClassVar[Kernel]
    one_target: ClassVar[bool] = False
    """True where a pair has one target, the image's, and not one for each direction."""

    def check(self, s: Similarities) -> None:
        """Raise a UserError for similarities that this kind cannot use."""
        del s

    @abc.abstractmethod
    def own_dense(self, matrix: Array) -> Array:
        """Return the loss of similarities (B, B) whose pairs are the diagonal."""

    @abc.abstractmethod
    def predict(self, matrix: Array) -> Array:
        """Return what similarities (B, B) predict for each row: weights (B, B)."""

    @abc.abstractmethod
    def dense(self, matrix: Array, i2t: Array, t2i: Array) -> Array:
        """Return the loss of similarities (B, B) against targets (B, B) of both directions."""

    @abc.abstractmethod
    def tiled(
        self,
        s: Similarities,
        by_image: TargetMoments,
        by_text: TargetMoments,
        reduction: PairReduction,
    ) -> tuple[Array, Array]:
        """Return the loss against targets given by their moments, and the hits (B,)."""

    def attended(
        self, reference: Similarities, values: Array, reduction: PairReduction
    ) -> TargetMoments:
        """Return Σ_j w_kj·values_j over the predictions w of `reference`, and their sums."""
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
        """Return symmetric InfoNCE; no dense target is built."""
        return symmetric_contrastive(matrix)

    def predict(self, matrix: Array) -> Array:
        """Return the softmax of each row."""
        return jax.nn.softmax(matrix, axis=1)

    def dense(self, matrix: Array, i2t: Array, t2i: Array) -> Array:
        """Return the mean of both cross-entropies."""
        return soft_contrastive(matrix, i2t, t2i)

    def tiled(
        self,
        s: Similarities,
        by_image: TargetMoments,
        by_text: TargetMoments,
        reduction: PairReduction,
    ) -> tuple[Array, Array]:
        """Return the mean of both cross-entropies, and the hits (B,)."""
        scale = 1 / s.temperature
        rows, columns, hits = pair_logsumexp(s.image, s.text, scale, reduction)
        images = by_image.total * rows - scale * _dot(s.image, by_image.embedding)
        texts = by_text.total * columns - scale * _dot(s.text, by_text.embedding)
        return (jnp.mean(images) + jnp.mean(texts)) / 2, hits


class Sigmoid(LossKind):
    """A binary decision for every pair (SigLIP, arXiv 2303.15343).

    It has one target for a pair, the image's; predictions are σ(s) instead of softmaxes.
    """

    name: ClassVar[Kernel] = "sigmoid"
    one_target: ClassVar[bool] = True

    def check(self, s: Similarities) -> None:
        """Raise a UserError for a model without a bias."""
        if s.bias is None:
            raise UserError(
                "contrastive.loss='sigmoid' needs a model with a logit bias: set logit_bias_init"
            )

    def own_dense(self, matrix: Array) -> Array:
        """Return the binary cross-entropy of all pairs."""
        return sigmoid_contrastive(matrix, jnp.eye(len(matrix), dtype=matrix.dtype))

    def predict(self, matrix: Array) -> Array:
        """Return σ(s) of every pair; rows do not add to 1."""
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
    ) -> tuple[Array, Array]:
        """Return the binary cross-entropy against the image's target, and the hits (B,)."""
        del by_text
        assert s.bias is not None
        scale = 1 / s.temperature
        rows, hits = pair_softplus(s.image, s.text, scale, s.bias, reduction)
        matched = scale * _dot(s.image, by_image.embedding)
        return jnp.mean(rows - matched - s.bias * by_image.total), hits


KINDS: dict[str, LossKind] = {"softmax": Softmax(), "sigmoid": Sigmoid()}


def loss_kind(name: str) -> LossKind:
    """Return the kind called `name`; a UserError lists the known ones."""
    if name not in KINDS:
        raise UserError(f"contrastive.loss={name!r} is unknown; use one of {', '.join(KINDS)}")
    return KINDS[name]


def scale_and_bias(s: Similarities) -> tuple[Array, Array]:
    """Return 1/τ and the bias, 0 for a model without."""
    scale = 1 / s.temperature
    return scale, jnp.zeros_like(scale) if s.bias is None else s.bias


def precise(x: Array) -> Array:
    """Return x in float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _dot(a: Array, b: Array) -> Array:
    """Return the product of each row with its own, (B,)."""
    return jnp.sum(precise(a) * precise(b), axis=1)
