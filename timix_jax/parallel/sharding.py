"""How parameters and the optimiser's moments lie on the mesh: rules over their paths."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.errors import UserError
from timix_jax.parallel.paths import compile_pattern, map_with_names, path_names, some_names

Axis = str | tuple[str, ...] | None
Rule = tuple[str, tuple[Axis, ...]]

# Below this many elements, gathering an array costs more than holding it on every device.
SMALL = 2**16
STACKED = r".*/layers/.*"  # arrays with a leading layer axis (models/transformer.py)


# Which dimension of a transformer block's parameters is cut over `tensor`, counted from the end: heads and hidden
# units, so that a block needs one sum over the axis in attention and one in the MLP.
TENSOR_AXES = (
    (r"attention/qkv/(?:kernel|bias)", -2),
    (r"attention/out/kernel", -3),
    (r"mlp/up/(?:kernel|bias)", -1),
    (r"mlp/down/kernel", -2),
)


def infer_shardings(
    abstract_tree: Any, mesh: Mesh, rules: Sequence[Rule] = (), *, small: int = SMALL
) -> Any:
    """A NamedSharding for each leaf, see `spec_of`.

    Args:
        abstract_tree: shapes (`jax.eval_shape`) or arrays: parameters or a whole train state.
        rules: (pattern, axes); axes has one entry a dimension: the name of a mesh axis, a tuple of
            such names, or None for "whole".

    Raises:
        UserError: a rule takes no array, or does not fit the shape of one that it takes.

    **Example:** `infer_shardings(state, mesh, [(r"mlp/up/kernel", (None, None, "tensor"))])`
    """
    patterns = [_pattern(text) for text, _ in rules]
    names = [name for name, _ in path_names(abstract_tree)]
    first = [next((i for i, p in enumerate(patterns) if p.fullmatch(n)), None) for n in names]
    for index, (text, _) in enumerate(rules):
        if index not in first:
            raise UserError(
                f"sharding rule {text!r} takes no array (it must match the end of a path, and the "
                f"first match wins); paths are such as {some_names(names)}"
            )
    return map_with_names(
        lambda name, leaf: NamedSharding(mesh, spec_of(name, leaf.shape, mesh, rules, small=small)),
        abstract_tree,
    )


def spec_of(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh,
    rules: Sequence[Rule] = (),
    *,
    small: int = SMALL,
) -> PartitionSpec:
    """How one array lies on the mesh: by the first rule that matches its path, else by default.

    By default the heads and hidden units of the blocks are cut over `tensor`, and of each array
    the largest other dimension that the size of the `fsdp` axis divides over that; never the
    axis of stacked layers, which a scan slices. Arrays below `small` elements are whole.

    A rule's pattern is a regular expression over a path `a/b/c` or over the end of one, from any
    `/` on. So a rule written for a parameter holds for its gradient, its moving average and the
    optimiser's moments too, whose paths end in the parameter's (`opt_state/1/mu/a/b/c`).

    Raises:
        UserError: the rule, or the model's heads and widths, do not fit the mesh.
    """
    for rule in rules:
        if _pattern(rule[0]).fullmatch(name):
            _check_fit(name, shape, rule, mesh)
            return PartitionSpec(*rule[1])
    axes: list[Axis] = [None] * len(shape)
    if mesh.shape["tensor"] > 1:
        for text, axis in TENSOR_AXES:
            if _pattern(text).fullmatch(name):
                axes[axis] = "tensor"
                _check_tensor(name, shape[axis], mesh)
    parts = mesh.shape["fsdp"]
    if parts > 1 and np.prod(shape) >= small:
        stacked = re.fullmatch(STACKED, name) is not None
        free = [
            axis
            for axis in range(stacked, len(shape))
            if axes[axis] is None and shape[axis] and shape[axis] % parts == 0
        ]
        if free:
            axes[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def _pattern(text: str) -> re.Pattern[str]:
    return compile_pattern(f"(?:.*/)?(?:{text})", "sharding rule")


def _check_tensor(name: str, size: int, mesh: Mesh) -> None:
    parts = mesh.shape["tensor"]
    if size % parts:
        what = "heads" if "attention" in name else "hidden units"
        raise UserError(
            f"tensor={parts}: the {size} {what} of {name} do not divide into {parts} parts; use a divisor of {size}"
        )


def _check_fit(name: str, shape: tuple[int, ...], rule: Rule, mesh: Mesh) -> None:
    """Raises a UserError unless the rule's axes exist, each once, and divide the dimensions of the array."""
    pattern, axes = rule
    what = f"sharding rule {pattern!r} → {axes}"
    if len(axes) != len(shape):
        raise UserError(
            f"{what}: {name} has shape {tuple(shape)}; give one entry for each of its {len(shape)} "
            "dimensions"
        )
    used: list[str] = []
    for size, axis in zip(shape, axes, strict=True):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in names):
            raise UserError(
                f"{what}: {axis!r} is no entry for a dimension; give the name of a mesh axis, a tuple of names, or None"
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
        raise UserError(f"{what}: cuts two dimensions over {twice[0]!r}; use each axis once")


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
    """The shapes of `abstract_tree` with these shardings attached, as a restore wants them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_tree,
        shardings,
    )
