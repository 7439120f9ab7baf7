"""How parameters and the optimiser's moments lie on the mesh: rules over their paths."""

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


def infer_shardings(
    abstract_tree: Any, mesh: Mesh, rules: Sequence[Rule] = (), *, small: int = SMALL
) -> Any:
    """A NamedSharding for each leaf: the first rule that matches its path, else the default.

    The default cuts the largest dimension that the size of the ``fsdp`` axis divides, over it.
    Arrays below ``small`` elements, and all arrays where the axis has size 1, are whole everywhere.

    A rule's pattern is a regular expression over a path ``a/b/c`` or over the end of one, from any
    ``/`` on. So a rule written for a parameter holds for its gradient, its moving average and the
    optimiser's moments too, whose paths end in the parameter's (``opt_state/1/mu/a/b/c``).

    Args:
        abstract_tree: shapes (``jax.eval_shape``) or arrays: parameters or a whole train state.
        rules: (pattern, axes); axes has one entry a dimension: the name of a mesh axis, a tuple of
            such names, or None for "whole".

    Raises:
        UserError: a rule takes no array, or does not fit the shape of one that it takes.

    **Example:** ``infer_shardings(state, mesh, [(r"mlp/up/kernel", (None, None, "tensor"))])``
    """
    patterns = [compile_pattern(f"(?:.*/)?(?:{text})", "sharding rule") for text, _ in rules]
    taken = [0] * len(rules)

    def sharding_of(name: str, leaf: Any) -> NamedSharding:
        for index, (pattern, (_, axes)) in enumerate(zip(patterns, rules, strict=True)):
            if pattern.fullmatch(name):
                taken[index] += 1
                _check_fit(name, leaf.shape, rules[index], mesh)
                return NamedSharding(mesh, PartitionSpec(*axes))
        return NamedSharding(mesh, _default_spec(leaf.shape, mesh, small))

    shardings = map_with_names(sharding_of, abstract_tree)
    for (text, _), count in zip(rules, taken, strict=True):
        if not count:
            names = [name for name, _ in path_names(abstract_tree)]
            raise UserError(
                f"sharding rule {text!r} takes no array (it must match the end of a path, and the "
                f"first match wins); paths are such as {some_names(names)}"
            )
    return shardings


def _default_spec(shape: tuple[int, ...], mesh: Mesh, small: int) -> PartitionSpec:
    """``fsdp`` on the largest dimension that it divides; none for small arrays."""
    parts = mesh.shape["fsdp"]
    fitting = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    if parts == 1 or np.prod(shape) < small or not fitting:
        return PartitionSpec()
    largest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def _check_fit(name: str, shape: tuple[int, ...], rule: Rule, mesh: Mesh) -> None:
    """Raises a UserError unless the rule's axes exist and divide the dimensions of the array."""
    pattern, axes = rule
    what = f"sharding rule {pattern!r} → {axes}"
    if len(axes) != len(shape):
        raise UserError(
            f"{what}: {name} has shape {tuple(shape)}; give one entry for each of its {len(shape)} "
            "dimensions"
        )
    for size, axis in zip(shape, axes, strict=True):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
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


def with_shardings(abstract_tree: Any, shardings: Any) -> Any:
    """The shapes of ``abstract_tree`` with these shardings attached, as a restore wants them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_tree,
        shardings,
    )
