"""Declare a parameter's axes where the parameter is made."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import struct
from flax.core import meta

from timix_jax.parallel.axes import Axes


class Declared(struct.PyTreeNode, meta.AxisMetadata[Any]):
    """A fresh parameter boxed with its axes; Flax unboxes it wherever a module reads the parameter."""

    value: Any
    axes: Axes = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """Return the parameter itself."""
        return self.value

    def replace_boxed(self, val: Any) -> "Declared":
        """Return another value with the same axes."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Declared":
        """Return the same axes for a lifted parameter, since dimensions count from the end."""
        del params
        return self.replace(axes=dataclasses.replace(self.axes, stacked=index == 0))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Declared":
        """Return the axes of one slice of a lifted parameter."""
        del index, params
        return self.replace(axes=dataclasses.replace(self.axes, stacked=False))


def declare(init: Callable[..., Any], axes: Axes) -> Callable[..., Any]:
    """Wrap an initialiser so that its parameter carries these axes.

    **Example:** `nn.Dense(64, kernel_init=declare(init, Axes(tensor=-1, muon=((-2,), (-1,)))))`
    """

    def boxed_init(*args: Any, **options: Any) -> Declared:
        return Declared(init(*args, **options), axes)

    return boxed_init


def mark_stacked(boxed: Any) -> Any:
    """Declare that every parameter of a fresh tree has a leading layer axis."""

    def mark(leaf: Any) -> Declared:
        box = leaf if _is_box(leaf) else Declared(leaf, Axes())
        return box.replace(axes=dataclasses.replace(box.axes, stacked=True))

    return jax.tree.map(mark, boxed, is_leaf=_is_box)


def unbox(boxed: Any) -> Any:
    """Return the bare parameters of a fresh tree."""
    return meta.unbox(boxed)


def axes_of(boxed: Any) -> Any:
    """Return the `Axes` of each parameter of a fresh tree (or of its shapes); `Axes()` if none are declared."""
    return jax.tree.map(lambda leaf: leaf.axes if _is_box(leaf) else Axes(), boxed, is_leaf=_is_box)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, Declared)
