"""Rows that other rows ask for: the ring gives what a dense take gives, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from timix_jax.objectives.exchange import take_global, take_local
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.mesh import BATCH_AXES, make_mesh

ROWS = 16
RNG = np.random.default_rng(0)
ARRAYS = {
    "tokens": RNG.standard_normal((ROWS, 3, 4)).astype(np.float32),
    "vector": RNG.standard_normal((ROWS, 5)).astype(np.float32),
}
WEIGHTS = jax.tree.map(lambda x: RNG.standard_normal(x.shape).astype(np.float32), ARRAYS)
INDICES = {
    "anywhere": RNG.integers(0, ROWS, ROWS).astype(np.int32),  # some rows twice, some never
    "one row": np.full(ROWS, 5, np.int32),
    "backwards": np.arange(ROWS, dtype=np.int32)[::-1].copy(),
}


def value_and_gradient(take, arrays, index):
    def loss(arrays):
        taken = take(arrays, index)
        return sum(jnp.sum(taken[name] * WEIGHTS[name]) for name in taken), taken

    (_, taken), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    return taken, grads


def reference(index):
    grads = {name: np.zeros_like(x) for name, x in ARRAYS.items()}
    for name, weights in WEIGHTS.items():
        np.add.at(grads[name], index, weights)
    return {name: x[index] for name, x in ARRAYS.items()}, grads


def assert_same(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("method", ["dense", "ring"])
@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("name", INDICES)
def test_rows_and_gradients_on_meshes(method, shape, name):
    mesh = make_mesh(**shape)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    arrays, index = jax.device_put((ARRAYS, INDICES[name]), rows)
    take = lambda arrays, index: take_global(arrays, index, PairReduction(method, mesh=mesh))
    taken, grads = value_and_gradient(take, arrays, index)
    assert_same((taken, grads), reference(INDICES[name]))
    assert taken["tokens"].sharding.is_equivalent_to(rows, 3)


def test_the_ring_never_holds_all_rows():
    """No array of the program is as large as the whole batch."""
    mesh = make_mesh(data=8)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    arrays = jax.ShapeDtypeStruct((ROWS, 3, 4), np.float32, sharding=rows)
    index = jax.ShapeDtypeStruct((ROWS,), np.int32, sharding=rows)

    def text(method):
        take = lambda x, i: jnp.sum(take_global(x, i, PairReduction(method, mesh=mesh)) ** 2)
        return jax.jit(jax.grad(take)).lower(arrays, index).compile().as_text()

    whole = f"f32[{ROWS},3,4]"
    assert whole in text("dense")
    ring = text("ring")
    assert whole not in ring
    assert "collective-permute" in ring
    assert "all-gather" not in ring


def test_rows_of_the_own_part():
    index = np.array([2, 0, 3, 3, 4, 5, 7, 4, *range(8, 16)], np.int32)
    taken, grads = value_and_gradient(lambda x, i: take_local(x, i, 4), ARRAYS, index)
    assert_same((taken, grads), reference(index))
