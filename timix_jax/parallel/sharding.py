"""Shardings of parameters and the optimiser's moments: declared axes, overridden by rules over paths."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.errors import UserError
from timix_jax.parallel.axes import Axes, find_axes
from timix_jax.parallel.paths import compile_pattern, map_with_names, path_names, some_names

Axis = str | tuple[str, ...] | None
Rule = tuple[str, tuple[Axis, ...]]

# Below this many elements, gathering an array costs more than holding it on every device.
SMALL = 2**16


def infer_shardings(
    abstract_tree: Any,
    mesh: Mesh,
    rules: Sequence[Rule] = (),
    *,
    declared: Mapping[str, Axes],
    small: int = SMALL,
) -> Any:
    """Return a NamedSharding for each leaf; see `spec_of`.

    Args:
      abstract_tree: shapes (`jax.eval_shape`) or arrays: parameters or a whole train state.
      rules: (pattern, axes); axes has one entry per dimension: the name of a mesh axis, a tuple of
        such names, or None for a dimension that stays whole.
      declared: axes of the model's parameters by path.

    Raises:
      UserError: a rule matches no array, or does not fit the shape of an array that it matches.

    **Example:** `infer_shardings(state, mesh, [(r"mlp/up/kernel", (None, None, "tensor"))], declared=declared)`
    """
    patterns = [_pattern(text) for text, _ in rules]
    names = [name for name, _ in path_names(abstract_tree)]
    first = [next((i for i, p in enumerate(patterns) if p.fullmatch(n)), None) for n in names]
    for index, (text, _) in enumerate(rules):
        if index not in first:
            raise UserError(
                f"sharding rule {text!r} matches no array (it must match the end of a path, and the "
                f"first match wins); examples of paths: {some_names(names)}"
            )

    def sharding_of(name: str, leaf: Any) -> NamedSharding:
        axes = find_axes(name, declared)
        return NamedSharding(mesh, spec_of(name, leaf.shape, axes, mesh, rules, small=small))

    return map_with_names(sharding_of, abstract_tree)


def spec_of(
    name: str,
    shape: tuple[int, ...],
    axes: Axes,
    mesh: Mesh,
    rules: Sequence[Rule] = (),
    *,
    small: int = SMALL,
) -> PartitionSpec:
    """Return how one array lies on the mesh: by the first rule that matches its path, else by its axes.

    By default the dimension that `axes` declares is split over `tensor`. The largest other dimension that is a multiple
    of the size of the `fsdp` axis is split over `fsdp`, but never the axis of stacked layers, which a scan slices.
    Arrays with fewer than `small` elements are not split over `fsdp`.

    A rule's pattern is a regular expression that matches a path `a/b/c` or the end of one, starting after any `/`.
    A rule for a parameter therefore also covers its gradient, its moving average and the optimiser's moments, whose
    paths end in the parameter's (`opt_state/1/mu/a/b/c`).

    Raises:
      UserError: the rule, or the dimension declared for `tensor`, does not fit the mesh.
    """
    for rule in rules:
        if _pattern(rule[0]).fullmatch(name):
            _check_fit(name, shape, rule, mesh)
            return PartitionSpec(*rule[1])
    split: list[Axis] = [None] * len(shape)
    if mesh.shape["tensor"] > 1 and axes.tensor is not None and -axes.tensor <= len(shape):
        _check_tensor(name, shape[axes.tensor], axes.unit, mesh)
        split[axes.tensor] = "tensor"
    parts = mesh.shape["fsdp"]
    if parts > 1 and np.prod(shape) >= small:
        free = [
            axis
            for axis in range(axes.stacked, len(shape))
            if split[axis] is None and shape[axis] and shape[axis] % parts == 0
        ]
        if free:
            split[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return PartitionSpec(*split) if any(split) else PartitionSpec()


def _pattern(text: str) -> re.Pattern[str]:
    return compile_pattern(f"(?:.*/)?(?:{text})", "sharding rule")


def _check_tensor(name: str, size: int, unit: str, mesh: Mesh) -> None:
    parts = mesh.shape["tensor"]
    if size % parts:
        raise UserError(
            f"tensor={parts}: the {size} {unit} of {name} do not divide into {parts} parts; use a divisor of {size}"
        )


def _check_fit(name: str, shape: tuple[int, ...], rule: Rule, mesh: Mesh) -> None:
    """Raise a UserError unless the rule uses existing mesh axes, each once, that divide the array's dimensions."""
    pattern, axes = rule
    what = f"sharding rule {pattern!r} → {axes}"
    if len(axes) != len(shape):
        raise UserError(
            f"{what}: {name} has shape {tuple(shape)}; give one entry per dimension, {len(shape)} "
            "in all"
        )
    used: list[str] = []
    for size, axis in zip(shape, axes, strict=True):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in names):
            raise UserError(
                f"{what}: {axis!r} is not a valid entry for a dimension; use a mesh axis, a tuple of them, or None"
            )
        used += names
        unknown = [each for each in names if each not in mesh.shape]
        if unknown:
            raise UserError(
                f"{what}: {unknown[0]!r} is not an axis of the mesh; use {', '.join(mesh.shape)}"
            )
        parts = int(np.prod([mesh.shape[each] for each in names]))
        if size % parts:
            raise UserError(
                f"{what}: {name} has shape {tuple(shape)}, and {size} does not divide into {parts} "
                "parts; use None there or a smaller mesh axis"
            )
    twice = [each for each in mesh.shape if used.count(each) > 1]
    if twice:
        raise UserError(f"{what}: splits two dimensions over {twice[0]!r}; use each axis once")


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
    """Attach shardings to the shapes of `abstract_tree`, as restoring a checkpoint requires."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_tree,
        shardings,
    )
