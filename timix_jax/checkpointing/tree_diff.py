"""Trees of arrays by the names of their leaves, and how two of them differ."""

from collections.abc import Mapping
from typing import Any

import jax

Name = tuple[str, ...]  # ("params", "image", "blocks", "kernel")

_SHOWN = 10


def named_leaves(tree: Any) -> dict[Name, Any]:
    """Leaf by name, in the order of `jax.tree.leaves`; None and empty containers have no leaves.

    A field of a NamedTuple or dataclass is named by its name, an element of a sequence by its
    index.

    Raises:
      ValueError: two leaves have the same name, or the tree is one bare leaf.
    """
    named: dict[Name, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
        if not name:
            raise ValueError("a tree of arrays is expected, not a single array")
        if name in named:
            raise ValueError(f"two leaves of the tree are named {'/'.join(name)}")
        named[name] = leaf
    return named


def check_savable(named: Mapping[Name, Any]) -> None:
    """Raises at once, with a name, what Orbax raises after minutes or without one.

    Raises:
      TypeError: a leaf is not a jax.Array.
      ValueError: a leaf has no elements, or is local to one of several processes.
    """
    for name, leaf in named.items():
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"{'/'.join(name)} is a {type(leaf).__name__}, not a jax.Array")
        if leaf.size == 0:
            raise ValueError(f"{'/'.join(name)} has no elements (shape {leaf.shape})")
        if jax.process_count() > 1 and leaf.is_fully_addressable:
            raise ValueError(f"{'/'.join(name)} is local to a process: make it a global array")


def nested(named: Mapping[Name, Any]) -> dict[str, Any]:
    """The leaves as nested plain dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        node = tree
        for part in name[:-1]:
            node = node.setdefault(part, {})
        node[name[-1]] = leaf
    return tree


def differences(saved: Mapping[Name, Any], wanted: Mapping[Name, Any]) -> list[str]:
    """One line for each leaf by which two sets of arrays (anything with shape and dtype) differ.

    Example:
      ``["params/head/bias: missing (wanted float32[3])", "params/old: unexpected (float32[])",
      "params/head/kernel: float32[4,3] → float32[4,5]"]``; an arrow is saved → wanted.
    """
    lines = []
    for name, leaf in wanted.items():
        if name not in saved:
            lines.append(f"{'/'.join(name)}: missing (wanted {_described(leaf)})")
        elif _described(saved[name]) != _described(leaf):
            lines.append(f"{'/'.join(name)}: {_described(saved[name])} → {_described(leaf)}")
    lines += [
        f"{'/'.join(name)}: unexpected ({_described(leaf)})"
        for name, leaf in saved.items()
        if name not in wanted
    ]
    return lines


def summary(lines: list[str]) -> str:
    """The first ten differences in one line, and the count of all."""
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"{len(lines)} differ: {'; '.join(lines[:_SHOWN])}{more}"


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
