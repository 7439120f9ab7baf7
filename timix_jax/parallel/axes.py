"""Meaning of a parameter's dimensions for the mesh and the optimiser, and its lookup by path."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timix_jax.parallel.paths import path_names


@dataclasses.dataclass(frozen=True)
class Axes:
    """Declaration of one parameter; dimensions are negative numbers, counted from the end.

    Attributes:
      tensor: dimension that is split over the mesh axis `tensor`; None for no such dimension.
      muon: (input dimensions, output dimensions) of each matrix that Muon orthogonalises, other dimensions counting
        the matrices; None for a parameter that is not a weight matrix.
      decay: whether weight decay applies; None = with two dimensions or more, apart from the layers.
      stacked: the first dimension counts layers, which a scan slices.
      unit: what dimension `tensor` counts, for messages.
    """

    tensor: int | None = None
    muon: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    decay: bool | None = None
    stacked: bool = False
    unit: str = "units"

    def __post_init__(self) -> None:
        """Refuse dimensions counted from the front, which stacking the layers would shift."""
        tensor = () if self.tensor is None else (self.tensor,)
        ins, outs = self.muon or ((), ())
        if any(dimension >= 0 for dimension in (*tensor, *ins, *outs)):
            raise ValueError(f"{self}: count dimensions from the end, -1 being the last")

    def decays(self, ndim: int) -> bool:
        """Return True if weight decay applies to a parameter with `ndim` dimensions."""
        return ndim - self.stacked >= 2 if self.decay is None else self.decay


def axes_by_path(axes_tree: Any) -> tuple[tuple[str, Axes], ...]:
    """The leaves of a tree of `Axes` as hashable (path, axes) pairs."""
    return tuple(path_names(axes_tree))


def find_axes(name: str, declared: Mapping[str, Axes]) -> Axes:
    """Return the axes of the parameter whose path is `name` or its longest declared end.

    A moment or an average has the path of its parameter behind a prefix, `opt_state/1/mu/image/cls`. Arrays that belong
    to no parameter get `Axes()`.
    """
    while name:
        if name in declared:
            return declared[name]
        _, _, name = name.partition("/")
    return Axes()
