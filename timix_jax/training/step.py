"""The pure training step: shared forward passes, the total loss, one update."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Forward, Objective
from timix_jax.objectives.base import prepare_forward
from timix_jax.optim.optimizer import ema_update, global_norm
from timix_jax.optim.schedule import Schedule
from timix_jax.parallel.layout import Layout
from timix_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, dict[str, Any]], tuple[TrainState, Metrics]]


def total_loss(
    objectives: Sequence[Objective], forward: Forward
) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
    """Return Σ weight · loss over the objectives, the scalars for the log, and the objectives' states."""
    total = jnp.zeros((), jnp.float32)
    metrics: Metrics = {}
    states = dict(forward.state)
    for objective in objectives:
        term = objective(forward)
        total = total + objective.weight * term.loss
        metrics |= {f"loss/{objective.name}": term.loss, **term.log}
        if term.state is not None:
            states[objective.name] = term.state
    return total, (metrics, states)


def make_train_step(
    model: ImageTextModel,
    objectives: Sequence[Objective],
    optimizer: optax.GradientTransformation,
    *,
    schedule: Schedule,
    ema_decay: float,
    seed: int,
    freeze: Callable[[Any], Any] = lambda params: params,
) -> TrainStep:
    """Return the step, a pure function of state and global batch; `jit_train_step` compiles it.

    Partners, λ and negatives come from the batches of all devices together. `freeze` stops the gradient of the
    parameters that are not trained, which then do not count in `grad_norm`.
    """

    def train_step(state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, Metrics]:
        seed_key = jax.random.key(seed)

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
            forward = prepare_forward(
                model,
                objectives,
                freeze(params),
                batch,
                teacher=state.ema_params,
                step=state.step,
                seed_key=seed_key,
                state=state.objectives,
            )
            return total_loss(objectives, forward)

        (loss, (metrics, states)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        with jax.named_scope("optimizer"):  # `training.flops` counts it apart
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = model.constrain(optax.apply_updates(state.params, updates))
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = ema_update(ema_params, params, ema_decay)
        norm = global_norm(grads)
        # A finite gradient can still produce non-finite weights, which would be saved. Checking the weights instead of
        # the updates avoids keeping the updates, which are as large as the model.
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(global_norm(params))
        metrics |= {
            "loss": loss,
            "lr": schedule(state.step),
            "temperature": model.temperature(state.params),
            "grad_norm": norm,
            "finite": finite,
        }
        new = TrainState(state.step + 1, params, ema_params, opt_state, states)
        return new, metrics

    return train_step


def jit_train_step(step: TrainStep, layout: Layout, state: TrainState) -> Any:
    """Jit a step with its state donated.

    The new state gets the shardings of the old one; if the compiler chose them, the next step might compile again.

    Args:
      step: the result of `make_train_step`.
      layout: the layout of the run.
      state: the training state or its shapes.
    """
    shardings = (layout.shardings(state), layout.replicated)
    return jax.jit(step, donate_argnums=0, out_shardings=shardings)
