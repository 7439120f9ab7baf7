"""AdamW with a decay mask and learning rates by parameter path; the average of parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from timix_jax.errors import UserError
from timix_jax.optim.muon import scale_by_muon_and_adam
from timix_jax.optim.schedule import Schedule
from timix_jax.parallel.paths import compile_pattern, map_with_names, path_names, some_names

# Trailing names of offsets, scales and learned constants: decay would pull them to 0 for no gain.
NO_DECAY = (
    r"(?:.*/)?(?:bias|scale|cls|cls_token|cls_embedding|mask_token|temperature|log_temperature"
    r"|logit_scale|[^/]*pos[^/]*emb[^/]*(?:/embedding)?)"
)


def make_optimizer(
    params: Any,
    *,
    schedule: Schedule,
    name: str = "adamw",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.02,
    clip_norm: float | None = 1.0,
    lr_scales: Sequence[tuple[str, float]] = (),
    no_decay: str = NO_DECAY,
    stacked: str | None = None,
) -> optax.GradientTransformation:
    """AdamW (decoupled decay) over parameters of the given shapes; defaults are the paper's (§5).

    Every pattern is a regular expression that must match the whole path, `a/b/c`.

    Args:
        params: the parameters, or their shapes (`jax.eval_shape`).
        schedule: step → learning rate; the first update uses `schedule(0)`.
        name: "adamw", or "muon" for Muon on the blocks' matrices.
        clip_norm: the gradient is scaled down to this global norm before the moments; None for no
            clipping.
        lr_scales: (pattern, factor of the learning rate), first match wins, 1 where none matches:
            the paper's two rates are `schedule` for the whole and `("image/.*", 0.1)` for a
            pretrained ViT. The factor applies to the decay too, as in AdamW with parameter groups.
        no_decay: pattern of parameters without weight decay, beside all vectors and scalars.
        stacked: pattern of parameters with a leading layer axis (a scan over layers), which is not
            counted as a dimension: a stack of biases is a vector a layer.

    Raises:
        UserError: a pattern is malformed or takes no parameter; a number is out of range.
    """
    if clip_norm is not None and not clip_norm > 0:
        raise UserError(f"clip_norm={clip_norm}: must be above 0; None for no clipping")
    if weight_decay < 0:
        raise UserError(f"weight_decay={weight_decay}: must not be negative; 0 for none")
    for field, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise UserError(f"{field}={value}: must be at least 0 and below 1")

    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if name == "adamw":
        parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    elif name == "muon":
        parts.append(scale_by_muon_and_adam(params, b1=b1, b2=b2, eps=eps))
    else:
        raise UserError(f"name={name!r} is unknown; use 'adamw' or 'muon'")
    if weight_decay:
        mask = decay_mask(params, no_decay=no_decay, stacked=stacked)
        parts.append(optax.add_decayed_weights(weight_decay, mask=mask))
    if lr_scales:
        parts.append(_scale_by_tree(lr_factors(params, lr_scales)))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)


def decay_mask(params: Any, *, no_decay: str = NO_DECAY, stacked: str | None = None) -> Any:
    """A tree of bool: True where weight decay applies. Arguments as in `make_optimizer`."""
    exempt = compile_pattern(no_decay, "no_decay")
    layered = compile_pattern(stacked, "stacked") if stacked is not None else None
    names = [name for name, _ in path_names(params)]
    if layered is not None and not any(layered.fullmatch(name) for name in names):
        raise UserError(_matches_nothing("stacked", layered.pattern, names))

    def decays(name: str, leaf: Any) -> bool:
        layer_axes = 1 if layered is not None and layered.fullmatch(name) else 0
        return leaf.ndim - layer_axes >= 2 and exempt.fullmatch(name) is None

    return map_with_names(decays, params)


def lr_factors(params: Any, lr_scales: Sequence[tuple[str, float]]) -> Any:
    """A tree of float: each parameter's learning-rate factor, by the first pattern that matches."""
    patterns = [(compile_pattern(text, "lr_scales"), factor) for text, factor in lr_scales]
    for pattern, factor in patterns:
        if factor < 0:
            raise UserError(
                f"lr_scales: factor {factor} of {pattern.pattern!r} is negative; 0 freezes, "
                "1 is the full rate"
            )
    taken = [0] * len(patterns)

    def factor_of(name: str, leaf: Any) -> float:
        del leaf
        for index, (pattern, factor) in enumerate(patterns):
            if pattern.fullmatch(name):
                taken[index] += 1
                return float(factor)
        return 1.0

    factors = map_with_names(factor_of, params)
    names = [name for name, _ in path_names(params)]
    for (pattern, _), count in zip(patterns, taken, strict=True):
        if not count:
            raise UserError(_matches_nothing("lr_scales", pattern.pattern, names))
    return factors


def _matches_nothing(field: str, pattern: str, names: Sequence[str]) -> str:
    return (
        f"{field}: pattern {pattern!r} takes no parameter (it must match the whole path, and the "
        f"first match wins); paths are such as {some_names(names)}"
    )


def _scale_by_tree(factors: Any) -> optax.GradientTransformation:
    """Each update times its own factor."""

    def scale(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(scale)


def ema_update(ema: Any, params: Any, decay: jax.Array | float) -> Any:
    """`decay · ema + (1 − decay) · params` a leaf, in the average's own dtype (keep it float32).

    decay 0 gives the parameters, 1 leaves the average as it was, both exactly.
    """
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p.astype(e.dtype), ema, params)


def global_norm(tree: Any) -> jax.Array:
    """The L2 norm over all leaves together, float32 scalar whatever the leaves' dtypes."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))
