"""Read one step folder with Orbax: its meta, its shapes, and its arrays onto any devices."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from timix_jax.checkpointing import checksums, step_folders, tree_diff
from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.runtime.workdir import absolute

PyTree = Any

STATE = "state"


def require_valid(path: epath.Path) -> None:
    """Raise a UserError unless every file of the step folder matches its checksum."""
    problems = processes.from_first(lambda: checksums.problems(path))
    if problems:
        raise UserError(
            f"checkpoint {path} cannot be used: {step_folders.describe(problems)}; choose another"
        )


def read_meta(path: epath.PathLike) -> dict[str, Any]:
    """Return the `meta` of a checkpoint found by `find_checkpoint`."""
    return dict(ocp.checkpointables_metadata(absolute(path)).custom_metadata or {})


def saved_shapes(path: epath.PathLike, part: str) -> PyTree:
    """Return shapes and dtypes of one part of a checkpoint found by `find_checkpoint`, as nested dicts."""
    saved = tree_diff.named_leaves(ocp.checkpointables_metadata(absolute(path)).metadata[STATE])
    return tree_diff.nested(
        {
            name[1:]: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for name, leaf in saved.items()
            if name[0] == part
        }
    )


def load(
    path: epath.Path,
    abstract: PyTree | None,
    part: tree_diff.Name,
    *,
    unused: Callable[[tree_diff.Name], bool] = lambda name: False,
) -> PyTree:
    """Read the arrays whose names start with `part`.

    Args:
      path: A step folder that was found to be valid.
      abstract: A tree of jax.ShapeDtypeStruct with shardings; None for nested dicts of NumPy arrays.
      part: First components of the names, such as `("params",)`; `()` for all arrays.
      unused: True for the name of a saved array that `abstract` may lack.

    Raises:
      UserError: There is no such part, or names, shapes or dtypes of its arrays differ; the message names them.
    """
    saved = tree_diff.named_leaves(ocp.checkpointables_metadata(path).metadata[STATE])
    depth = len(part)
    parts = sorted({name[0] for name in saved})
    saved = {name: leaf for name, leaf in saved.items() if name[:depth] == part}
    if not saved:
        raise UserError(f"checkpoint {path} holds no {'/'.join(part)}, but {', '.join(parts)}")
    expected: dict[tree_diff.Name, Any]
    if abstract is None:
        expected = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in saved.items()}
    else:
        expected = {part + name: leaf for name, leaf in tree_diff.named_leaves(abstract).items()}
        for name, leaf in expected.items():
            if leaf.sharding is None:
                raise ValueError(f"{'/'.join(name)} has no sharding: say where to put it")
    needed = {name: leaf for name, leaf in saved.items() if name in expected or not unused(name)}
    _refuse_differences(path, needed, expected)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = ocp.load_checkpointables(path, {STATE: tree_diff.nested(expected)})[STATE]
    arrays = tree_diff.named_leaves(loaded)
    if abstract is None:
        return tree_diff.nested({name[depth:]: leaf for name, leaf in arrays.items()})
    return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in expected])


def check_same_arrays(path: epath.PathLike, params: PyTree, abstract_params: PyTree) -> None:
    """Raise a UserError that names the differences unless `params` of `path` have these names and shapes."""
    saved, expected = tree_diff.named_leaves(params), tree_diff.named_leaves(abstract_params)
    _refuse_differences(path, saved, expected)


def _refuse_differences(
    path: epath.PathLike,
    saved: Mapping[tree_diff.Name, Any],
    expected: Mapping[tree_diff.Name, Any],
) -> None:
    differences = tree_diff.differences(saved, expected)
    if differences:
        raise UserError(
            f"checkpoint {path} is from another model (saved → expected; {len(saved)} arrays against"
            f" {len(expected)}), {tree_diff.summary(differences)}: use the model that it was saved"
            " with, or another --workdir"
        )
