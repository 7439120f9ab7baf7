"""Names of leaves, and the description of how two trees differ."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from timix_jax.checkpointing import tree_diff


class Pair(NamedTuple):
    first: Any
    second: Any


@flax.struct.dataclass
class State:
    params: Any
    other: Any


def test_leaves_are_named_by_field_key_and_index_in_the_order_of_jax():
    tree = State({"b": Pair(1, [2, None, 3]), "a/x": 4}, (optax.EmptyState(), 5, {}))
    named = tree_diff.named_leaves(tree)
    assert named == {
        ("params", "a/x"): 4,
        ("params", "b", "first"): 1,
        ("params", "b", "second", "0"): 2,
        ("params", "b", "second", "2"): 3,
        ("other", "1"): 5,
    }
    assert list(named.values()) == jax.tree.leaves(tree)
    assert tree_diff.nested(named) == {
        "params": {"a/x": 4, "b": {"first": 1, "second": {"0": 2, "2": 3}}},
        "other": {"1": 5},
    }


def test_single_leaf_and_duplicate_names_are_refused():
    with pytest.raises(ValueError, match="not a single array"):
        tree_diff.named_leaves(jnp.zeros(3))
    with pytest.raises(ValueError, match="two leaves of the tree are named a/1"):
        tree_diff.named_leaves({"a": Numbered(1, 2)})


@jax.tree_util.register_pytree_with_keys_class
class Numbered:
    """A node whose two children have the same key."""

    def __init__(self, *children: Any):
        self.children = children

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.DictKey(1), child) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Any:
        return cls(*children)


def test_equal_trees_have_no_differences():
    tree = tree_diff.named_leaves({"a": np.zeros((2, 3), np.float32), "b": jnp.zeros(())})
    assert tree_diff.differences(tree, tree) == []


def test_differences_and_their_summary():
    def leaf(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    saved = {
        ("p", "same"): leaf(jnp.float32, 2),
        ("p", "shape"): leaf(jnp.float32, 2, 3),
        ("p", "dtype"): leaf(jnp.float32),
        ("old",): leaf(jnp.int32, 4),
    }
    expected = {
        ("p", "same"): leaf(jnp.float32, 2),
        ("p", "shape"): leaf(jnp.float32, 3, 2),
        ("p", "dtype"): leaf(jnp.bfloat16),
        ("new",): leaf(jnp.int32, 4),
    }
    lines = [
        "p/shape: float32[2,3] → float32[3,2]",
        "p/dtype: float32[] → bfloat16[]",
        "new: missing (expected int32[4])",
        "old: unexpected (int32[4])",
    ]
    assert tree_diff.differences(saved, expected) == lines
    assert tree_diff.summary(lines) == "4 differ: " + "; ".join(lines)
    many = [f"line{i}" for i in range(14)]
    assert tree_diff.summary(many) == "14 differ: " + "; ".join(many[:10]) + "; and 4 more"
