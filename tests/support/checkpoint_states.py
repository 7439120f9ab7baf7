"""States with every kind of node, and their comparison."""

import pathlib
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.checkpointing import Checkpointer


class Pair(NamedTuple):
    first: Any
    second: Any


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def make_state(devices: int = 8, *, seed: int = 0, width: int = 16) -> State:
    """Return a state with every kind of node: None, EmptyState, NamedTuple, tuple, bf16, scalars."""
    mesh = mesh_of(devices)
    rng = np.random.default_rng(seed)

    def put(values: Any, *spec: str | None) -> jax.Array:
        return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))

    params = {
        "image": {
            "kernel": put(rng.standard_normal((16, width), np.float32), "data"),
            "scale": put(jnp.asarray(rng.standard_normal(5), jnp.bfloat16)),
        },
        "text": Pair(put(np.float32(rng.standard_normal())), [put(np.arange(8), "data"), None]),
    }
    floats = {"image": params["image"]}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.ema(0.9), optax.identity()
    )
    return State(put(np.int32(seed)), params, None, optimizer.init(floats))


def abstract(state: Any, devices: int | None = None) -> Any:
    """Return the shapes of a state with its shardings, or replicated over the first devices."""

    def of(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        sharding = leaf.sharding
        if devices is not None:
            sharding = NamedSharding(mesh_of(devices), PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(of, state)


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def two_checkpoints(folder: pathlib.Path) -> pathlib.Path:
    """Save steps 1 and 2 and return the folder of step 2."""
    with Checkpointer(folder) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, make_state(seed=step), {"step": step})
    return folder / "00000002"
