"""Paths of the leaves of a tree, which patterns over parameters match."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from timix_jax.errors import UserError


def path_name(path: Sequence[Any]) -> str:
    """Return a JAX key path as `a/b/c`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def path_names(tree: Any) -> list[tuple[str, Any]]:
    """Return `[(name, leaf), ...]` in the order of `jax.tree.leaves`.

    **Example:** `path_names({"text": {"bias": b}})` is `[("text/bias", b)]`.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(path_name(path), leaf) for path, leaf in leaves]


def map_with_names(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Replace each leaf of the tree by `function(name, leaf)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), tree
    )


def compile_pattern(pattern: str, field: str) -> re.Pattern[str]:
    """Compile a regular expression; a UserError names the field if it is malformed."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{field}: {pattern!r} is not a regular expression ({error}): fix or escape it"
        ) from error


def some_names(names: Sequence[str], count: int = 4) -> str:
    """Return a few of the names, evenly spaced, for a message."""
    picked = [names[i * len(names) // count] for i in range(count)] if names else []
    return ", ".join(dict.fromkeys(picked)) or "none"
