"""Tables of parameters, memory and package versions, and how sizes are printed."""

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from timix_jax.parallel.paths import path_names

PACKAGES = (
    "timix-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "array_record",
    "tensorflow-datasets",
    "tokenizers",
    "numpy",
    "ml_collections",
    "simplejpeg",
    "opencv-python-headless",
    "pillow",
)


class Module(NamedTuple):
    """A part of the parameter tree with its number of parameters and bytes."""

    name: str
    parameters: int
    bytes: int


def parameter_modules(params: Any, depth: int = 2) -> list[Module]:
    """Sum the parameters by the first `depth` parts of their paths, in the tree's order.

    Args:
      params: arrays or their shapes.
    """
    sums: dict[str, tuple[int, int]] = {}
    for path, leaf in path_names(params):
        name = "/".join(path.split("/")[:depth])
        count, size = sums.get(name, (0, 0))
        elements = int(np.prod(leaf.shape))
        sums[name] = (count + elements, size + elements * np.dtype(leaf.dtype).itemsize)
    return [Module(name, *counts) for name, counts in sums.items()]


def parameters_by_tower(params: Any) -> dict[str, int]:
    """Return top-level part of the tree → number of parameters."""
    return {module.name: module.parameters for module in parameter_modules(params, depth=1)}


def parameter_table(params: Any, depth: int = 2) -> str:
    """Return `parameter_modules` as a table with its sum."""
    modules = parameter_modules(params, depth)
    total = Module("total", sum(m.parameters for m in modules), sum(m.bytes for m in modules))
    rows = [(m.name, f"{m.parameters:,}", format_bytes(m.bytes)) for m in [*modules, total]]
    return format_table(("module", "parameters", "size"), rows)


def tree_bytes(tree: Any, shardings: Any | None = None) -> int:
    """Return the bytes of all arrays of a tree or, given their shardings, those on one device."""
    leaves = jax.tree.leaves(tree)
    if shardings is None:
        shapes = [leaf.shape for leaf in leaves]
    else:
        of_leaves = jax.tree.leaves(shardings)
        shapes = [s.shard_shape(x.shape) for x, s in zip(leaves, of_leaves, strict=True)]
    sizes = (
        int(np.prod(shape)) * leaf.dtype.itemsize
        for leaf, shape in zip(leaves, shapes, strict=True)
    )
    return sum(sizes)


def memory_estimate(
    *,
    params: Any,
    opt_state: Any,
    ema_params: Any | None,
    batch: Any,
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Return the bytes that a step is certain to hold on one device, by kind, with their `total`.

    Activations are not included; they depend on the compiler and on rematerialisation.

    Args:
      params, opt_state, ema_params, batch: trees of arrays or shapes.
      shardings: the shardings of those trees by the same names; None for one device.
    """
    trees = {"params": params, "opt_state": opt_state, "ema_params": ema_params, "batch": batch}
    placed = shardings or {}
    sizes = {name: tree_bytes(tree, placed.get(name)) for name, tree in trees.items()}
    sizes["gradients"] = sizes["params"]
    return {**sizes, "total": sum(sizes.values())}


def memory_table(estimate: Mapping[str, int]) -> str:
    """Return `memory_estimate` as a table."""
    rows = [(name.replace("_", " "), format_bytes(size)) for name, size in estimate.items() if size]
    return format_table(("on each device", "size"), rows) + "\n(without activations)"


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return package → installed version or "not installed", after Python and the platform."""
    versions = {"python": platform.python_version(), "platform": sys.platform}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def versions_table(versions: Mapping[str, str]) -> str:
    """Return `package_versions` as a table."""
    return format_table(("package", "version"), list(versions.items()))


def format_bytes(size: int) -> str:
    """Format a size with three significant digits, such as `1.25 GiB`."""
    number, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1000:
            break
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if number >= 100 or unit == "B" else f"{number:.3g} {unit}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns under a ruled header, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{w}}" for cell, w in rest)])

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])
