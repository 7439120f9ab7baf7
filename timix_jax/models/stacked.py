"""Parameters of equal layers, stacked on a leading axis."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.errors import ScopeParamShapeError

from timix_jax.models.axes import mark_stacked, unbox

Array = jax.Array
_NAME = "layers"


def stacked_layers(module: nn.Module, init_one: Callable[[Array], Any], depth: int) -> Any:
    """Return the parameter `layers` of a module: that of `depth` equal layers, stacked.

    Flax's `param` traces the initialiser again in every pass, to compare shapes. That of whole layers took a third of
    the time in which a step is traced. Each layer compares its own shapes anyway; their number is compared here.

    Args:
      module: the bound module that holds the parameter.
      init_one: a key → the fresh parameters of one layer.
      depth: number of layers.

    Raises:
      ScopeParamShapeError: the parameters are those of another number of layers.
    """
    if not module.has_variable("params", _NAME):
        keys = lambda key: jax.random.split(key, depth)
        return module.param(_NAME, lambda key: mark_stacked(jax.vmap(init_one)(keys(key))))
    layers = unbox(module.get_variable("params", _NAME))
    for leaf in jax.tree.leaves(layers):
        if len(leaf) != depth:
            wanted = (depth, *leaf.shape[1:])
            raise ScopeParamShapeError(_NAME, "/".join(module.path), leaf.shape, wanted)
    return layers
