"""The layout of a run: one mesh, how arrays are split over it, and the constraints that models add to a step."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.parallel.axes import Axes, axes_by_path, find_axes
from timix_jax.parallel.mesh import BATCH_AXES, batch_sharding, replicated
from timix_jax.parallel.paths import map_with_names
from timix_jax.parallel.sharding import SMALL, Rule, infer_shardings, spec_of

FSDP = "fsdp"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The mesh, the model's declared axes and the rules of `config.mesh.rules`; hashable, so a model can hold it.

    Attributes:
      mesh: axes `data`, `fsdp` and `tensor`.
      rules: see `sharding.infer_shardings`.
      small: arrays with fewer elements are not split over `fsdp`.
      axes: (path, declared axes) of each parameter, see `with_axes`; without them nothing is split over `tensor`,
        and the layer axis is unknown.

    **Example:**

        layout = Layout(make_mesh(fsdp=4)).with_axes(model.parameter_axes())
        model = dataclasses.replace(model, layout=layout)
        state = jax.jit(create, out_shardings=layout.shardings(jax.eval_shape(create, key)))(key)
    """

    mesh: Mesh
    rules: tuple[Rule, ...] = ()
    small: int = SMALL
    axes: tuple[tuple[str, Axes], ...] = ()

    def with_axes(self, axes_tree: Any) -> "Layout":
        """Return this layout for the parameters that a tree of `Axes` declares."""
        return dataclasses.replace(self, axes=axes_by_path(axes_tree))

    @functools.cached_property
    def _declared(self) -> Mapping[str, Axes]:
        return dict(self.axes)

    @property
    def batch(self) -> NamedSharding:
        """The sharding that splits the leading axis over `data` and `fsdp`."""
        return batch_sharding(self.mesh)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding that keeps an array whole on every device."""
        return replicated(self.mesh)

    def shardings(self, abstract_tree: Any) -> Any:
        """Return a NamedSharding for each leaf of a train state or of its parameters."""
        return infer_shardings(
            abstract_tree, self.mesh, self.rules, declared=self._declared, small=self.small
        )

    def constrain_batch(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """Keep the batch axis of an activation split as the batch is; the compiler might follow the weights instead."""
        spec = PartitionSpec(*(None,) * axis, BATCH_AXES)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def gather(self, params: Any, scope: str, *, dtype: Any = None, layers: int = 0) -> Any:
        """Gather parameters that are split over `fsdp`; call this where they are used (ZeRO stage 3).

        Inside a scan over layers only one layer is whole at a time. Gradients are split again immediately, so they are
        reduce-scattered layer by layer. The split over `tensor` stays.

        Args:
          params: a subtree of the model's parameters.
          scope: path of that subtree, such as `image/blocks/layers`.
          dtype: type in which matrices are gathered; None for their own.
          layers: number of stacked layers, of which the leaves are one, without the layer axis; 0 = not stacked.
        """
        if self.mesh.shape[FSDP] == 1:
            return params

        def gather_one(name: str, leaf: jax.Array) -> jax.Array:
            shape = (layers, *leaf.shape) if layers else leaf.shape
            path = f"{scope}/{name}"
            axes = find_axes(path, self._declared)
            given = spec_of(path, shape, axes, self.mesh, self.rules, small=self.small)
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
    """Return the whole leaf in `dtype`; its gradient has `kept`, the leaf's own type."""
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
        return tuple(each for each in axis if each != FSDP) or None
    return None if axis == FSDP else axis
