"""The training state: everything that a step changes."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Objective


@flax.struct.dataclass
class TrainState:
    """The state of training, without random keys, which follow from the seed and the step.

    Attributes:
      step: int32 scalar, number of updates so far.
      params: float32 parameters.
      ema_params: their moving average, or None.
      opt_state: the optimiser's state.
      objectives: objective name -> its state, for objectives that have one.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any
    objectives: dict[str, Any] = flax.struct.field(default_factory=dict)


def create(
    model: ImageTextModel,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool,
    objectives: Sequence[Objective] = (),
) -> TrainState:
    """Return a fresh state; pure, so that a jit with output shardings never holds it whole on one device."""
    params = model.init(key)
    states = {o.name: o.init_state(model) for o in objectives}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
        objectives={name: state for name, state in states.items() if state is not None},
    )
