"""Muon for the weight matrices that declare it, Adam for everything else (arXiv 2502.16982)."""

import math
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from timix_jax.parallel.axes import Axes

_ADAM_RMS = (
    0.2  # typical RMS of AdamW's updates; matching it lets all parameters share one learning rate
)


def scale_by_muon_and_adam(
    axes: Any, *, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """Orthogonalised momentum, scaled to the size of Adam's updates, for declared matrices; Adam for the rest.

    Args:
      axes: the `Axes` of each parameter, in a tree of the parameters' structure.
      b1, b2, eps: Adam's; Muon's momentum is 0.95.
    """
    dimensions = jax.tree.map(_dimensions, axes)
    labels = jax.tree.map(lambda a: "muon" if a.muon else "adam", axes)

    def unmasked_dimensions(tree: Any) -> Any:
        # The partition masks Adam's leaves; mask their dimensions likewise.
        masked = lambda x: isinstance(x, optax.MaskedNode)
        return jax.tree.map(lambda x, d: x if masked(x) else d, tree, dimensions, is_leaf=masked)

    def to_adam_size(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(
            lambda u, d: u * _rms_factor(u.shape, d), updates, unmasked_dimensions(updates)
        )

    muon = optax.chain(
        scale_by_muon(weight_dimension_numbers=unmasked_dimensions), optax.stateless(to_adam_size)
    )
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _dimensions(axes: Axes) -> MuonDimensionNumbers | None:
    return None if axes.muon is None else MuonDimensionNumbers(*axes.muon)


def _rms_factor(shape: tuple[int, ...], dimensions: MuonDimensionNumbers) -> float:
    """Return what scales an orthogonal m × n matrix, whose RMS is 1/√max(m, n), to the RMS of Adam's updates."""
    size = lambda which: math.prod(shape[axis] for axis in which)
    return _ADAM_RMS * math.sqrt(max(size(dimensions.reduction_axis), size(dimensions.output_axis)))
