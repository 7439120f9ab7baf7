"""Targets of a mixed batch: how similar each mixed image should be to each caption (docs/method.md §4).

With A the shares of `shares.Shares`, S the similarities of the unmixed batch, U = softmax(S) and Q = softmax(Sᵀ):

    hard          i2t A,        t2i Aᵀ
    pred          i2t A·U,      t2i Q·Aᵀ
    pred_shared   i2t A·U,      t2i A·U       as in the released code (§6, point 8)
    blend         β·hard + (1−β)·pred

λ may differ by row and π may be any map, so the columns of A need not add to 1; the rows of t2i are therefore
renormalised, which changes nothing for a single λ and an involution. A caption that no image shows (λ = 0, and no row's
partner) has a row of zeros and adds nothing to the loss.

A new target is one class here and one line in `TARGETS`; `config.mix.target` chooses it.
"""

import abc
import dataclasses
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.kinds import LossKind, TargetMoments, precise, scale_and_bias
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sums import pair_attention
from timix_jax.objectives.pairs.sweep import PairReduction

Array = jax.Array
T = TypeVar("T")
Matrices = tuple[Array, Array]
Moments = tuple[TargetMoments, TargetMoments]


class Target(abc.ABC):
    """Turns the shares of a mixed batch into targets; an implementation is a frozen dataclass of its settings.

    `matrices` is the reference, which `moments` must match.

    Attributes:
      reads_reference: True if the target depends on the similarities of the unmixed batch.
    """

    reads_reference: ClassVar[bool] = False

    @abc.abstractmethod
    def matrices(self, kind: LossKind, shares: Shares, reference: Array | None) -> Matrices:
        """Return (i2t, t2i), each (B, B).

        Args:
          kind: kind of loss, which defines the predictions.
          shares: shares of the mixed batch.
          reference: (B, B) S of the unmixed batch, image × text over τ, if `reads_reference`; no gradient flows.
        """

    @abc.abstractmethod
    def moments(
        self,
        kind: LossKind,
        s: Similarities,
        shares: Shares,
        reference: Similarities | None,
        reduction: PairReduction,
    ) -> Moments:
        """Return the two targets as moments over the embeddings of `s`, without building a (B, B) matrix."""


@dataclasses.dataclass(frozen=True)
class Hard(Target):
    """The shares themselves.

    Attributes:
      label_smoothing: ε of (1−ε)·target + ε/B.
    """

    label_smoothing: float = 0.0

    def matrices(self, kind: LossKind, shares: Shares, reference: Array | None) -> Matrices:
        """Return A and Aᵀ."""
        del kind, reference
        i2t = shares.matrix()
        return self._smooth(i2t), self._smooth(_renormalise(i2t.T))

    def _smooth(self, rows: Array) -> Array:
        amount = self.label_smoothing
        return (1 - amount) * rows + amount / rows.shape[1] if amount else rows

    def moments(
        self,
        kind: LossKind,
        s: Similarities,
        shares: Shares,
        reference: Similarities | None,
        reduction: PairReduction,
    ) -> Moments:
        """Return A·t, and Aᵀ·x divided by the row sums of Aᵀ."""
        del kind, reference, reduction
        ones = jnp.ones(len(s.image), shares.lam.dtype)
        by_image = TargetMoments(shares.mix(precise(s.text)), shares.total())
        share, carried = shares.spread(ones), shares.spread(precise(s.image))
        by_text = TargetMoments(carried / _nonzero(share)[:, None], (share > 0).astype(share.dtype))
        if not self.label_smoothing:
            return by_image, by_text
        kept = 1 - self.label_smoothing
        return (
            blend(kept, by_image, TargetMoments(_mean(s.text), ones)),
            blend(kept, by_text, TargetMoments(_mean(s.image), ones)),
        )


@dataclasses.dataclass(frozen=True)
class Pred(Target):
    """The predictions of the unmixed batch, mixed."""

    reads_reference: ClassVar[bool] = True

    def matrices(self, kind: LossKind, shares: Shares, reference: Array | None) -> Matrices:
        """Return A·U and Q·Aᵀ."""
        reference = lax.stop_gradient(_given(reference))
        i2t = shares.mix_rows(kind.predict(reference))
        return i2t, _renormalise(shares.mix_columns(kind.predict(reference.T)))

    def moments(
        self,
        kind: LossKind,
        s: Similarities,
        shares: Shares,
        reference: Similarities | None,
        reduction: PairReduction,
    ) -> Moments:
        """Return A·(U·t), where U·t is an attention, and Q·(Aᵀ·x) divided by its row sums."""
        reference = _given(reference).constant()
        seen = kind.attended(reference, s.text, reduction)
        by_image = TargetMoments(shares.mix(seen.embedding), shares.mix(seen.total))
        if kind.one_target:
            return by_image, by_image
        share = shares.spread(jnp.ones_like(shares.lam))
        carried = shares.spread(precise(s.image)).astype(s.image.dtype)
        scale, bias = scale_and_bias(reference)
        embedding, total = pair_attention(
            reference.text, reference.image, carried, share, scale, bias, kind.name, reduction
        )
        by_text = TargetMoments(
            embedding / _nonzero(total)[:, None], (total > 0).astype(total.dtype)
        )
        return by_image, by_text


@dataclasses.dataclass(frozen=True)
class PredShared(Pred):
    """`Pred` with the image's target in both directions, as in the released code (docs/method.md §6, point 8)."""

    def matrices(self, kind: LossKind, shares: Shares, reference: Array | None) -> Matrices:
        """Return A·U twice."""
        i2t, _ = super().matrices(kind, shares, reference)
        return i2t, i2t

    def moments(
        self,
        kind: LossKind,
        s: Similarities,
        shares: Shares,
        reference: Similarities | None,
        reduction: PairReduction,
    ) -> Moments:
        """Return A·(U·t) and A·(U·x) from one attention over the embeddings of both sides."""
        if kind.one_target:
            return super().moments(kind, s, shares, reference, reduction)
        both = jnp.concatenate([s.text, s.image], axis=1)
        seen = kind.attended(_given(reference).constant(), both, reduction)
        images, texts = jnp.split(shares.mix(seen.embedding), [s.text.shape[1]], axis=1)
        # λ + (1 − λ) would only be rounded.
        total = seen.total if shares.weight is None else shares.mix(seen.total)
        return TargetMoments(images, total), TargetMoments(texts, total)


@dataclasses.dataclass(frozen=True)
class Blend(Target):
    """β·hard + (1−β)·pred.

    Attributes:
      beta: β.
      label_smoothing: ε of the hard part.
    """

    beta: float = 0.5
    label_smoothing: float = 0.0

    reads_reference: ClassVar[bool] = True

    def matrices(self, kind: LossKind, shares: Shares, reference: Array | None) -> Matrices:
        """Return both directions, blended."""
        hard = Hard(self.label_smoothing).matrices(kind, shares, reference)
        predicted = Pred().matrices(kind, shares, reference)
        i2t, t2i = (
            self.beta * given + (1 - self.beta) * seen
            for given, seen in zip(hard, predicted, strict=True)
        )
        return i2t, t2i

    def moments(
        self,
        kind: LossKind,
        s: Similarities,
        shares: Shares,
        reference: Similarities | None,
        reduction: PairReduction,
    ) -> Moments:
        """Return both directions, blended."""
        hard = Hard(self.label_smoothing).moments(kind, s, shares, reference, reduction)
        predicted = Pred().moments(kind, s, shares, reference, reduction)
        return blend(self.beta, hard[0], predicted[0]), blend(self.beta, hard[1], predicted[1])


TARGETS: dict[str, type[Target]] = {
    "hard": Hard,
    "pred": Pred,
    "pred_shared": PredShared,
    "blend": Blend,
}


def build_target(name: str, **options: Any) -> Target:
    """Build the target with this name.

    Args:
      name: a key of `TARGETS`.
      **options: settings of all targets; those without a field in the class are ignored.

    Raises:
      UserError: the name is unknown.
    """
    if name not in TARGETS:
        raise UserError(f"mix.target={name!r} is unknown; use one of {', '.join(TARGETS)}")
    kind = TARGETS[name]
    names: set[str] = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in options.items() if key in names})


def blend(weight: Array | float, one: TargetMoments, other: TargetMoments) -> TargetMoments:
    """Return weight·one + (1−weight)·other."""
    return TargetMoments(*(weight * a + (1 - weight) * b for a, b in zip(one, other, strict=True)))


def _given(reference: T | None) -> T:
    if reference is None:
        raise UserError("this mix.target needs the similarities of the unmixed batch")
    return reference


def _renormalise(rows: Array) -> Array:
    total = rows.sum(axis=1, keepdims=True)
    return rows / jnp.where(total > 0, total, 1)


def _nonzero(total: Array) -> Array:
    return jnp.where(total > 0, total, 1)


def _mean(x: Array) -> Array:
    return jnp.mean(precise(x), axis=0, keepdims=True)
