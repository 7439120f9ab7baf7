"""Muon for the matrices of the transformer blocks, Adam for everything else (arXiv 2502.16982)."""

import math
import re
from typing import Any

import jax
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
    params: Any, *, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """Orthogonalised momentum for the blocks' matrices, at the update size of Adam; Adam for the rest.

    Args:
      params: the parameters or their shapes.
      b1, b2, eps: Adam's; Muon's momentum is 0.95.
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

    muon = optax.chain(
        scale_by_muon(weight_dimension_numbers=of_muon), optax.stateless(at_adams_size)
    )
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _matrix_axes(name: str) -> MuonDimensionNumbers | None:
    for pattern, (reduction, output) in _MATRICES.items():
        if re.fullmatch(pattern, name):
            return MuonDimensionNumbers(reduction, output)
    return None


def _rms_factor(shape: tuple[int, ...], axes: MuonDimensionNumbers) -> float:
    """An orthogonal m × n matrix has RMS 1/√max(m, n)."""
    size = lambda which: math.prod(shape[axis] for axis in which)
    return _ADAM_RMS * math.sqrt(max(size(axes.reduction_axis), size(axes.output_axis)))
