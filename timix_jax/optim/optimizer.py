"""AdamW or Muon with weight decay by declared axes and learning rates by path; the average of parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from timix_jax.errors import UserError
from timix_jax.optim.muon import scale_by_muon_and_adam
from timix_jax.optim.schedule import Schedule
from timix_jax.parallel.axes import Axes
from timix_jax.parallel.paths import compile_pattern, map_with_names, path_names, some_names


def make_optimizer(
    params: Any,
    axes: Any,
    *,
    schedule: Schedule,
    name: str,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float | None,
    lr_scales: Sequence[tuple[str, float]],
    layer_decay: float = 1.0,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Build the optimiser, with decoupled weight decay, for parameters of the given shapes.

    Args:
      params: the parameters, or their shapes (`jax.eval_shape`).
      axes: the `Axes` of each parameter, in a tree of the same structure.
      schedule: step → learning rate; the first update uses `schedule(0)`.
      name: "adamw", or "muon" for Muon on the matrices that declare it.
      clip_norm: limit on the global norm of the gradient, applied before the moments; None for no
        clipping.
      lr_scales: (pattern, factor of the learning rate); each pattern is a regular expression that must match the whole
        path, `a/b/c`. The first match wins, and the factor is 1 without a match: the paper's two rates are `schedule`
        for everything and `("image/.*", 0.1)` for a pretrained ViT. The factor also scales the decay, as in AdamW with
        parameter groups. A factor of 0 freezes: these parameters have no moments and do not count for `clip_norm`.
      layer_decay: factor of the learning rate from a layer of a stack to the one before; the last has the full rate of
        its parameter (BEiT, arXiv 2106.08254 §3.2). 1 for equal rates.

    Raises:
      UserError: a pattern is malformed or matches no parameter, or a number is out of range.
    """
    if clip_norm is not None and not clip_norm > 0:
        raise UserError(f"clip_norm={clip_norm}: must be above 0; None for no clipping")
    if weight_decay < 0:
        raise UserError(f"weight_decay={weight_decay}: must not be negative; 0 for none")
    for field, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise UserError(f"{field}={value}: must be at least 0 and below 1")

    if not 0 < layer_decay <= 1:
        raise UserError(
            f"layer_decay={layer_decay}: must be above 0 and at most 1; 1 for equal rates"
        )

    factors = lr_factors(params, lr_scales)
    trained = jax.tree.map(bool, factors)
    if not any(jax.tree.leaves(trained)):
        raise UserError(f"lr_scales={lr_scales}: every parameter is frozen, so nothing is trained")
    some_are_frozen = not all(jax.tree.leaves(trained))
    if some_are_frozen:
        params, axes, factors = (_only(trained, tree) for tree in (params, axes, factors))

    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if name == "adamw":
        parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    elif name == "muon":
        parts.append(scale_by_muon_and_adam(axes, b1=b1, b2=b2, eps=eps))
    else:
        raise UserError(f"name={name!r} is unknown; use 'adamw' or 'muon'")
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decay_mask(params, axes)))
    if layer_decay != 1:
        factors = layer_factors(params, axes, factors, layer_decay)
    if lr_scales or layer_decay != 1:
        parts.append(_scale_by_tree(factors))
    parts.append(optax.scale_by_learning_rate(schedule))
    optimizer = optax.chain(*parts)
    return _update_only(trained, optimizer) if some_are_frozen else optimizer


def decay_mask(params: Any, axes: Any) -> Any:
    """A tree of bool: True where weight decay applies. Arguments as in `make_optimizer`."""

    def decays(leaf: Any, declared: Axes) -> bool:
        return declared.decays(leaf.ndim)

    return jax.tree.map(decays, params, axes)


def lr_factors(params: Any, lr_scales: Sequence[tuple[str, float]]) -> Any:
    """A tree of float: the learning-rate factor of each parameter, by the first pattern that matches."""
    patterns = [(compile_pattern(text, "lr_scales"), factor) for text, factor in lr_scales]
    for pattern, factor in patterns:
        if factor < 0:
            raise UserError(
                f"lr_scales: factor {factor} of {pattern.pattern!r} is negative; 0 freezes, "
                "1 is the full rate"
            )
    matches = [0] * len(patterns)

    def factor_of(name: str, leaf: Any) -> float:
        del leaf
        for index, (pattern, factor) in enumerate(patterns):
            if pattern.fullmatch(name):
                matches[index] += 1
                return float(factor)
        return 1.0

    factors = map_with_names(factor_of, params)
    names = [name for name, _ in path_names(params)]
    for (pattern, _), count in zip(patterns, matches, strict=True):
        if not count:
            raise UserError(_matches_nothing(pattern.pattern, names))
    return factors


def layer_factors(params: Any, axes: Any, factors: Any, decay: float) -> Any:
    """Return the factors of `lr_factors`, for stacked parameters one per layer, (L, 1, …) with the last one unchanged.

    Arguments as in `make_optimizer`.
    """

    def per_layer(leaf: Any, declared: Axes, factor: float) -> Any:
        if not declared.stacked:
            return factor
        powers = decay ** np.arange(leaf.shape[0] - 1, -1, -1)
        return (factor * powers).astype(np.float32).reshape(-1, *[1] * (leaf.ndim - 1))

    return jax.tree.map(per_layer, params, axes, factors)


def freeze(params: Any, lr_scales: Sequence[tuple[str, float]]) -> Any:
    """Return `params` as constants where their factor is 0, so that no gradient is computed there."""
    return jax.tree.map(
        lambda leaf, factor: leaf if factor else jax.lax.stop_gradient(leaf),
        params,
        lr_factors(params, lr_scales),
    )


def _matches_nothing(pattern: str, names: Sequence[str]) -> str:
    return (
        f"lr_scales: pattern {pattern!r} matches no parameter (it must match the whole path, and the "
        f"first match wins); examples of paths: {some_names(names)}"
    )


def _scale_by_tree(factors: Any) -> optax.GradientTransformation:
    """Scale each update by its own factor."""

    def scale(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(scale)


def _only(chosen: Any, tree: Any) -> Any:
    """Return `tree` without the leaves that a tree of bool leaves out; their places stay, but hold nothing."""
    return jax.tree.map(lambda keep, leaf: leaf if keep else optax.MaskedNode(), chosen, tree)


def _update_only(
    trained: Any, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Apply `optimizer` to the leaves where `trained` is True and leave the others as they are.

    `optax.masked` would put the state into another level, and checkpoints and sharding rules know its paths.
    """

    def init(params: Any) -> Any:
        return optimizer.init(_only(trained, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        own = None if params is None else _only(trained, params)
        new, state = optimizer.update(_only(trained, updates), state, own)
        return jax.tree.map(
            lambda keep, changed, update: changed if keep else jnp.zeros_like(update),
            *(trained, new, updates),
        ), state

    return optax.GradientTransformation(init, update)


def ema_update(ema: Any, params: Any, decay: jax.Array | float) -> Any:
    """Return `decay · ema + (1 − decay) · params` for each leaf, in the average's own dtype (keep it float32).

    A decay of 0 gives the parameters and 1 leaves the average unchanged, both exactly.
    """
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p.astype(e.dtype), ema, params)


def global_norm(tree: Any) -> jax.Array:
    """The L2 norm over all leaves together, a float32 scalar whatever the leaves' dtypes."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))
