"""Everything that a training step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from timix_jax.models.dual_encoder import DualEncoder


@flax.struct.dataclass
class TrainState:
    """The state of training; random numbers are not in it, since they follow from the seed and the step.

    Attributes:
      step: int32 scalar, updates done.
      params: float32 parameters.
      ema_params: their moving average, or None.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any


def create(
    model: DualEncoder, optimizer: optax.GradientTransformation, key: jax.Array, *, ema: bool
) -> TrainState:
    """A fresh state; a pure function, to be jitted with output shardings so that nothing is whole on one device."""
    params = model.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
    )
