"""Where everything of a run lies: one mesh, the rules over it, and the constraints that models put into the step."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.parallel.mesh import BATCH_AXES, batch_sharding, replicated
from timix_jax.parallel.paths import map_with_names
from timix_jax.parallel.sharding import SMALL, Rule, infer_shardings, spec_of

FSDP = "fsdp"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The mesh with the rules of `config.mesh.rules`; hashable, so that it can be a field of a model.

    Attributes:
      mesh: axes `data`, `fsdp` and `tensor`.
      rules: see `sharding.infer_shardings`.
      small: arrays with fewer elements are whole on every device.

    **Example:**

        layout = Layout(make_mesh(fsdp=4))
        state = jax.jit(create, out_shardings=layout.shardings(jax.eval_shape(create, key)))(key)
    """

    mesh: Mesh
    rules: tuple[Rule, ...] = ()
    small: int = SMALL

    @property
    def batch(self) -> NamedSharding:
        """The leading axis over `data` and `fsdp`."""
        return batch_sharding(self.mesh)

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return replicated(self.mesh)

    def shardings(self, abstract_tree: Any) -> Any:
        """A NamedSharding for each leaf of a train state, or of its parameters."""
        return infer_shardings(abstract_tree, self.mesh, self.rules, small=self.small)

    def constrain_batch(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """Holds the batch axis of an activation to the devices; the compiler would move it where weights are cut."""
        spec = PartitionSpec(*(None,) * axis, BATCH_AXES)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def gather(self, params: Any, scope: str, *, dtype: Any = None, layers: int = 0) -> Any:
        """The parameters with their `fsdp` cut undone, to be called where they are used (ZeRO stage 3).

        Inside a scan over layers only one layer is whole at a time. Gradients are cut again at once, so that they are
        reduced and scattered a layer. `tensor` cuts stay.

        Args:
          params: a subtree of the model's parameters.
          scope: path of that subtree, `image/blocks/layers`.
          dtype: matrices travel in this type; None for their own.
          layers: the leaves are one of so many stacked layers, whose own axis they lack; 0 = not stacked.
        """
        if self.mesh.shape[FSDP] == 1:
            return params

        def gather_one(name: str, leaf: jax.Array) -> jax.Array:
            shape = (layers, *leaf.shape) if layers else leaf.shape
            given = spec_of(f"{scope}/{name}", shape, self.mesh, self.rules, small=self.small)
            spec = (tuple(given) + (None,) * len(shape))[bool(layers) : len(shape)]
            travel = leaf.dtype if dtype is None or leaf.ndim < 2 else jnp.dtype(dtype)
            if all(axis is None for axis in spec):
                return leaf
            return _gather(leaf, self.mesh, spec, travel, leaf.dtype)

        with jax.named_scope("gather_parameters"):
            return map_with_names(gather_one, params)


Spec = tuple[Any, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(
    leaf: jax.Array, mesh: Mesh, spec: Spec, dtype: jnp.dtype, kept: jnp.dtype
) -> jax.Array:
    """The whole leaf in `dtype`; its gradient in `kept`, the leaf's own."""
    del kept
    whole = NamedSharding(mesh, PartitionSpec(*(_without_fsdp(axis) for axis in spec)))
    return jax.lax.with_sharding_constraint(leaf.astype(dtype), whole)


def _gather_forward(
    leaf: jax.Array, mesh: Mesh, spec: Spec, dtype: jnp.dtype, kept: jnp.dtype
) -> tuple[jax.Array, None]:
    return _gather(leaf, mesh, spec, dtype, kept), None


def _gather_backward(
    mesh: Mesh, spec: Spec, dtype: jnp.dtype, kept: jnp.dtype, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    del dtype
    cut = NamedSharding(mesh, PartitionSpec(*spec))
    return (jax.lax.with_sharding_constraint(cotangent, cut).astype(kept),)


_gather.defvjp(_gather_forward, _gather_backward)


def _without_fsdp(axis: Any) -> Any:
    if isinstance(axis, tuple):
        left = tuple(each for each in axis if each != FSDP)
        return left or None
    return None if axis == FSDP else axis
