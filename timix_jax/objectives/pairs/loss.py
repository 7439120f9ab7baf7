"""The loss over all image-text pairs of a global batch: a kind of loss and a method for its sums."""

import dataclasses

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.kinds import KINDS, LossKind, TargetMoments, precise
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sums import pair_logsumexp
from timix_jax.objectives.pairs.sweep import DENSE, PairReduction
from timix_jax.objectives.pairs.targets import Target, blend
from timix_jax.objectives.pairs.tiles import OWN_PAIR

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PairLoss:
    """A contrastive loss over the global batch; the method "dense" is the reference for the others.

    Attributes:
      kind: a value of `kinds.KINDS`.
      reduction: the method for sums over all pairs.

    **Example:**

        loss = PairLoss(KINDS["sigmoid"], PairReduction("ring", chunk=1024, mesh=mesh))
        value, hits = loss.plain(Similarities(image, text, temperature, bias))
    """

    kind: LossKind = KINDS["softmax"]
    reduction: PairReduction = DENSE

    def plain(self, s: Similarities) -> tuple[Array, Array]:
        """Return the loss if image k matches only caption k, and the hits (B,) bool.

        Row k is a hit if pair (k, k) is more similar than every other pair of its row and column; ties are misses.
        """
        self.kind.check(s)
        if self._tiled:
            return self.kind.tiled(s, *_own(s), self.reduction)
        matrix = s.matrix()
        return self.kind.own_dense(matrix), _hits(matrix)

    def distilled(
        self, s: Similarities, teacher: Similarities, alpha: Array | float
    ) -> tuple[Array, Array]:
        """Return loss and hits for the target (1−α)·identity + α·teacher's prediction (docs/method.md §5, ITC)."""
        teacher = teacher.constant()
        self.kind.check(s)
        self.kind.check(teacher)
        if self._tiled:
            images = self.kind.attended(teacher, s.text, self.reduction)
            texts = self.kind.attended(teacher.transposed(), s.image, self.reduction)
            by_image, by_text = (
                blend(1 - alpha, own, seen)
                for own, seen in zip(_own(s), (images, texts), strict=True)
            )
            return self.kind.tiled(s, by_image, by_text, self.reduction)
        matrix, predicted = s.matrix(), teacher.matrix()
        own = jnp.eye(len(matrix), dtype=matrix.dtype)
        i2t, t2i = (
            alpha * self.kind.predict(rows) + (1 - alpha) * own for rows in (predicted, predicted.T)
        )
        return self.kind.dense(matrix, i2t, t2i), _hits(matrix)

    def mixed(
        self, s: Similarities, target: Target, shares: Shares, reference: Similarities | None = None
    ) -> Array:
        """Return L_mix of the mixed images' similarities (docs/method.md §4).

        Args:
          s: mixed images × captions.
          target: turns shares into targets.
          shares: share of each caption in each image.
          reference: similarities of the unmixed batch, for targets that read them.
        """
        self.kind.check(s)
        if self._tiled:
            moments = target.moments(self.kind, s, shares, reference, self.reduction)
            return self.kind.tiled(s, *moments, self.reduction, shares.apart_columns())[0]
        matrix = shares.without_apart(s.matrix())
        seen = None if reference is None else jax.lax.stop_gradient(reference.matrix())
        return self.kind.dense(matrix, *target.matrices(self.kind, shares, seen))

    def against(self, s: Similarities, negatives: Array) -> Array:
        """Return symmetric InfoNCE with other negatives; image and caption k are each other's one positive.

        The candidates of image k are caption k and `negatives[j]`, j ≠ k, and so are those of caption k, with image k.

        Args:
          s: images and captions, and the temperature of this loss.
          negatives: (B, D).

        Raises:
          UserError: the loss is no softmax.
        """
        if self.kind.name != "softmax":
            raise UserError("this mixer's negatives need config.contrastive.loss='softmax'")
        own = jnp.sum(precise(s.image) * precise(s.text), axis=1) / s.temperature
        images, texts = (self._partition(side, negatives, own, s) for side in (s.image, s.text))
        return jnp.mean((images + texts) / 2 - own)

    def _partition(self, side: Array, negatives: Array, own: Array, s: Similarities) -> Array:
        """Return log(exp own_k + Σ_j≠k exp ⟨side_k, negatives_j⟩/τ), (B,)."""
        if self._tiled:
            apart = jnp.full((len(side), 1), OWN_PAIR, jnp.int32)
            others, _, _ = pair_logsumexp(side, negatives, 1 / s.temperature, self.reduction, apart)
            return jnp.logaddexp(own, others)
        matrix = Similarities(side, negatives, s.temperature).matrix()
        itself = jnp.eye(len(matrix), dtype=bool)
        return jax.nn.logsumexp(jnp.where(itself, own[:, None], matrix), axis=1)

    @property
    def _tiled(self) -> bool:
        return self.reduction.method != "dense"


DENSE_SOFTMAX = PairLoss()


def _own(s: Similarities) -> tuple[TargetMoments, TargetMoments]:
    total = jnp.ones(len(s.image), precise(s.image).dtype)
    return TargetMoments(s.text, total), TargetMoments(s.image, total)


def _hits(matrix: Array) -> Array:
    own = jnp.diagonal(matrix)
    others = jnp.where(jnp.eye(len(own), dtype=bool), -jnp.inf, matrix)
    return own > jnp.maximum(jnp.max(others, axis=1), jnp.max(others, axis=0))
