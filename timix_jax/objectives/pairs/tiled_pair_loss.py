"""The losses of `pair_loss` on embeddings: no target and no similarity is ever a matrix.

A cross-entropy against a target T is linear in the similarities but for the partition function:

    Σ_j −T_kj log softmax(s_k)_j = (Σ_j T_kj)·logsumexp_j s_kj − ⟨x_k, Σ_j T_kj t_j⟩ / τ,

so a row needs only its log-sum-exp, its wanted embedding Σ_j T_kj t_j and its sum Σ_j T_kj. For
A = λ·I + (1−λ)·I[π] the wanted embeddings are A·t (hard) or A·(U·t) (pred; U·t is attention of the
unmixed batch), and in the other direction Aᵀ·x or Q·(Aᵀ·x), over the row's sum.
"""

from typing import NamedTuple

import jax.numpy as jnp

from timix_jax.objectives.base import Array
from timix_jax.objectives.pairs.mixed_target import MixedTarget
from timix_jax.objectives.pairs.pair_sums import (
    Kernel,
    pair_attention,
    pair_logsumexp,
    pair_softplus,
)
from timix_jax.objectives.pairs.pair_sweep import PairReduction
from timix_jax.objectives.pairs.similarities import Similarities


class Wanted(NamedTuple):
    """One direction's target: Σ_j T_kj · embedding_j (B, D) and Σ_j T_kj (B,)."""

    embedding: Array
    total: Array


def plain(kind: Kernel, s: Similarities, reduction: PairReduction) -> tuple[Array, Array]:
    """The loss of own pairs, and the hits (B,)."""
    return _loss(kind, s, *_own(s), reduction)


def distilled(
    kind: Kernel,
    s: Similarities,
    teacher: Similarities,
    alpha: Array | float,
    reduction: PairReduction,
) -> tuple[Array, Array]:
    """As `plain`, against (1−α)·own pair + α·the teacher's prediction."""
    images = _attended(kind, teacher, s.text, reduction)
    texts = _attended(kind, _transposed(teacher), s.image, reduction)
    own_text, own_image = _own(s)
    by_image, by_text = _blend(1 - alpha, own_text, images), _blend(1 - alpha, own_image, texts)
    return _loss(kind, s, by_image, by_text, reduction)


def mixed(kind: Kernel, s: Similarities, target: MixedTarget, reduction: PairReduction) -> Array:
    """The loss against the target of a mixed batch."""
    if target.name == "hard":
        wanted = _hard(s, target)
    elif target.name == "blend":
        given, predicted = _hard(s, target), _predicted(kind, s, target, reduction)
        wanted = (
            _blend(target.beta, given[0], predicted[0]),
            _blend(target.beta, given[1], predicted[1]),
        )
    else:
        wanted = _predicted(kind, s, target, reduction)
    return _loss(kind, s, *wanted, reduction)[0]


def _loss(
    kind: Kernel, s: Similarities, by_image: Wanted, by_text: Wanted, reduction: PairReduction
) -> tuple[Array, Array]:
    scale = 1 / s.temperature
    wanted = scale * _dot(s.image, by_image.embedding)
    if kind == "sigmoid":
        assert s.bias is not None
        rows, hits = pair_softplus(s.image, s.text, scale, s.bias, reduction)
        return jnp.mean(rows - wanted - s.bias * by_image.total), hits
    rows, columns, hits = pair_logsumexp(s.image, s.text, scale, reduction)
    images = by_image.total * rows - wanted
    texts = by_text.total * columns - scale * _dot(s.text, by_text.embedding)
    return (jnp.mean(images) + jnp.mean(texts)) / 2, hits


def _own(s: Similarities) -> tuple[Wanted, Wanted]:
    total = jnp.ones(len(s.image), _precise(s.image).dtype)
    return Wanted(s.text, total), Wanted(s.image, total)


def _hard(s: Similarities, target: MixedTarget) -> tuple[Wanted, Wanted]:
    """A·t, and Aᵀ·x over its rows' sums; captions that no image carries want nothing."""
    ones = jnp.ones(len(s.image), target.lam.dtype)
    by_image = Wanted(target.mix(_precise(s.text)), ones)
    share, carried = target.spread(ones), target.spread(_precise(s.image))
    by_text = Wanted(carried / _nonzero(share)[:, None], (share > 0).astype(share.dtype))
    if not target.label_smoothing:
        return by_image, by_text
    kept = 1 - target.label_smoothing
    return (
        _blend(kept, by_image, Wanted(_mean(s.text), ones)),
        _blend(kept, by_text, Wanted(_mean(s.image), ones)),
    )


def _predicted(
    kind: Kernel, s: Similarities, target: MixedTarget, reduction: PairReduction
) -> tuple[Wanted, Wanted]:
    """A·(U·t), and Q·(Aᵀ·x) over its rows' sums."""
    assert target.reference is not None
    reference = target.reference.constant()
    if target.name == "pred_shared" and kind == "softmax":
        # One attention of the same weights over both sides' embeddings.
        both = jnp.concatenate([s.text, s.image], axis=1)
        seen = _attended(kind, reference, both, reduction)
        mixed = target.mix(seen.embedding)
        images, texts = jnp.split(mixed, [s.text.shape[1]], axis=1)
        return Wanted(images, seen.total), Wanted(texts, seen.total)
    seen = _attended(kind, reference, s.text, reduction)
    by_image = Wanted(target.mix(seen.embedding), target.mix(seen.total))
    if kind == "sigmoid":
        return by_image, by_image  # the sigmoid loss has one target, the image's
    share = target.spread(jnp.ones_like(target.lam))
    carried = target.spread(_precise(s.image)).astype(s.image.dtype)
    scale, bias = _scale_and_bias(reference)
    embedding, total = pair_attention(
        reference.text, reference.image, carried, share, scale, bias, kind, reduction
    )
    by_text = Wanted(embedding / _nonzero(total)[:, None], (total > 0).astype(total.dtype))
    return by_image, by_text


def _attended(
    kind: Kernel, reference: Similarities, values: Array, reduction: PairReduction
) -> Wanted:
    scale, bias = _scale_and_bias(reference)
    ones = jnp.ones(len(values), _precise(values).dtype)
    return Wanted(
        *pair_attention(reference.image, reference.text, values, ones, scale, bias, kind, reduction)
    )


def _scale_and_bias(s: Similarities) -> tuple[Array, Array]:
    scale = 1 / s.temperature
    return scale, jnp.zeros_like(scale) if s.bias is None else s.bias


def _transposed(s: Similarities) -> Similarities:
    return s._replace(image=s.text, text=s.image)


def _blend(weight: Array | float, one: Wanted, other: Wanted) -> Wanted:
    return Wanted(*(weight * a + (1 - weight) * b for a, b in zip(one, other, strict=True)))


def _nonzero(total: Array) -> Array:
    return jnp.where(total > 0, total, 1)


def _precise(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _mean(x: Array) -> Array:
    return jnp.mean(_precise(x), axis=0, keepdims=True)


def _dot(a: Array, b: Array) -> Array:
    """Row by row, (B,)."""
    return jnp.sum(_precise(a) * _precise(b), axis=1)
