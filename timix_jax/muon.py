"""Muon for the matrices of the transformer blocks, Adam for everything else (arXiv 2502.16982)."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from timix_jax.parallel.paths import map_with_names

# Path of a stacked kernel → axes in and out of each of its matrices; other axes (layers; query, key and value)
# count the matrices. The leading axis is the layer.
_MATRICES = {
    r".*/attention/qkv/kernel": ((1,), (3, 4)),  # (layer, C, 3, heads, C/heads)
    r".*/attention/out/kernel": ((1, 2), (3,)),  # (layer, heads, C/heads, C)
    r".*/mlp/(?:up|down)/kernel": ((1,), (2,)),  # (layer, in, out)
}
_ADAM_RMS = 0.2  # of AdamW's usual update: with it both kinds of parameters share one learning rate


def scale_by_muon_and_adam(
    params: Any, *, b1: float, b2: float, eps: float, unrolled: bool = False
) -> optax.GradientTransformation:
    """Orthogonalised momentum for the blocks' matrices, at the update size of Adam; Adam for the rest.

    Args:
      params: the parameters or their shapes.
      b1, b2, eps: Adam's; Muon's momentum is 0.95.
      unrolled: orthogonalises matrix by matrix and not all layers at once: the same numbers, twice as fast on CPU,
        where products of single matrices run on all cores, at the price of a longer program.
    """
    axes = map_with_names(lambda name, leaf: _matrix_axes(name), params)
    labels = map_with_names(lambda name, leaf: "muon" if _matrix_axes(name) else "adam", params)

    def of_muon(tree: Any) -> Any:
        # Inside the partition the other leaves are masked away, and so must their axes be.
        masked = lambda x: isinstance(x, optax.MaskedNode)
        return jax.tree.map(lambda x, a: x if masked(x) else a, tree, axes, is_leaf=masked)

    def at_adams_size(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda u, a: u * _rms_factor(u.shape, a), updates, of_muon(updates))

    momentum = scale_by_muon(weight_dimension_numbers=of_muon)
    if unrolled:
        momentum = _matrix_by_matrix(momentum, of_muon)
    muon = optax.chain(momentum, optax.stateless(at_adams_size))
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _matrix_by_matrix(
    stacked: optax.GradientTransformation, axes_of: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """``stacked`` with its own state, its update on the tree of single matrices."""
    masked = lambda x: isinstance(x, optax.MaskedNode)
    single = scale_by_muon(
        weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda x: x if masked(x) else MuonDimensionNumbers((0,), (1,)), tree, is_leaf=masked
        )
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        axes = axes_of(updates)
        cut = lambda tree: jax.tree.map(
            lambda x, a: x if masked(x) else _matrices(x, a), tree, axes, is_leaf=masked
        )
        join = lambda tree: jax.tree.map(
            lambda x, a, matrices: x if masked(x) else _stacked(matrices, x.shape, a),
            updates,
            axes,
            tree,
            is_leaf=masked,
        )
        new, after = single.update(cut(updates), state._replace(mu=cut(state.mu)))
        return join(new), after._replace(mu=join(after.mu))

    return optax.GradientTransformation(stacked.init, update)


def _order(rank: int, axes: MuonDimensionNumbers) -> tuple[int, ...]:
    used = (*axes.reduction_axis, *axes.output_axis)
    return (*(axis for axis in range(rank) if axis not in used), *used)


def _matrices(x: jax.Array, axes: MuonDimensionNumbers) -> list[jax.Array]:
    """The matrices (in, out) of a kernel, one after the other."""
    rows = math.prod(x.shape[axis] for axis in axes.reduction_axis)
    columns = math.prod(x.shape[axis] for axis in axes.output_axis)
    return list(x.transpose(_order(x.ndim, axes)).reshape(-1, rows, columns))


def _stacked(
    matrices: list[jax.Array], shape: tuple[int, ...], axes: MuonDimensionNumbers
) -> jax.Array:
    """What `_matrices` cut, whole again."""
    order = _order(len(shape), axes)
    whole = jnp.stack(matrices).reshape([shape[axis] for axis in order])
    return whole.transpose([order.index(axis) for axis in range(len(shape))])


def _matrix_axes(name: str) -> MuonDimensionNumbers | None:
    for pattern, (reduction, output) in _MATRICES.items():
        if re.fullmatch(pattern, name):
            return MuonDimensionNumbers(reduction, output)
    return None


def _rms_factor(shape: tuple[int, ...], axes: MuonDimensionNumbers) -> float:
    """An orthogonal m × n matrix has RMS 1/√max(m, n)."""
    size = lambda which: math.prod(shape[axis] for axis in which)
    return _ADAM_RMS * math.sqrt(max(size(axes.reduction_axis), size(axes.output_axis)))
