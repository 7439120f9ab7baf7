"""The targets of a mixed batch as matrices, from λ and π."""

import jax.numpy as jnp

from timix_jax.mixing.partners import ANY_PARTNERS
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.targets import build_target


def matrices(name, lam, partner, logits=None, weight=None, **options):
    shares = Shares(jnp.asarray(lam), jnp.asarray(partner), ANY_PARTNERS, weight)
    return build_target(name, **options).matrices(KINDS["softmax"], shares, logits)


def hard(lam, partner, label_smoothing=0.0):
    return matrices("hard", lam, partner, label_smoothing=label_smoothing)


def pred(lam, partner, logits):
    return matrices("pred", lam, partner, logits)


def pred_shared(lam, partner, logits):
    return matrices("pred_shared", lam, partner, logits)
