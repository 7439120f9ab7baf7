"""Name the leaves of a tree of arrays, and describe how two trees differ."""

from collections.abc import Mapping
from typing import Any

import jax

Name = tuple[str, ...]  # ("params", "image", "blocks", "kernel")

_SHOWN = 10


def named_leaves(tree: Any) -> dict[Name, Any]:
    """Map names to leaves, in the order of `jax.tree.leaves`; None and empty containers have no leaves.

    Fields of a NamedTuple or dataclass go by their name, elements of a sequence by their index.

    Raises:
      ValueError: Two leaves have the same name, or the tree is a single leaf.
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
    """Raise at once, naming the leaf, the errors that Orbax raises after minutes or without a name.

    Raises:
      TypeError: A leaf is not a jax.Array.
      ValueError: A leaf has no elements, or is local to one of several processes.
    """
    for name, leaf in named.items():
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"{'/'.join(name)} is a {type(leaf).__name__}, not a jax.Array")
        if leaf.size == 0:
            raise ValueError(f"{'/'.join(name)} has no elements (shape {leaf.shape})")
        if jax.process_count() > 1 and leaf.is_fully_addressable:
            raise ValueError(f"{'/'.join(name)} is local to a process: make it a global array")


def nested(named: Mapping[Name, Any]) -> dict[str, Any]:
    """Return the leaves as nested plain dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        node = tree
        for part in name[:-1]:
            node = node.setdefault(part, {})
        node[name[-1]] = leaf
    return tree


def differences(saved: Mapping[Name, Any], expected: Mapping[Name, Any]) -> list[str]:
    """Return one line per leaf in which two sets of arrays (anything with shape and dtype) differ.

    **Example:**

      ``["params/head/bias: missing (expected float32[3])", "params/old: unexpected (float32[])",
      "params/head/kernel: float32[4,3] → float32[4,5]"]``; an arrow is saved → expected.
    """
    lines = []
    for name, leaf in expected.items():
        if name not in saved:
            lines.append(f"{'/'.join(name)}: missing (expected {_described(leaf)})")
        elif _described(saved[name]) != _described(leaf):
            lines.append(f"{'/'.join(name)}: {_described(saved[name])} → {_described(leaf)}")
    lines += [
        f"{'/'.join(name)}: unexpected ({_described(leaf)})"
        for name, leaf in saved.items()
        if name not in expected
    ]
    return lines


def summary(lines: list[str]) -> str:
    """Return the first ten differences in one line, and the number of all."""
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"{len(lines)} differ: {'; '.join(lines[:_SHOWN])}{more}"


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
