"""The pure training step: shared passes, summed objectives, one update."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from timix_jax import rng
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Forward, Objective
from timix_jax.objectives.passes import Batch, Pass, image_training_pass
from timix_jax.optim.optimizer import ema_update, global_norm
from timix_jax.optim.schedule import Schedule
from timix_jax.parallel.layout import Layout
from timix_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, dict[str, Any]], tuple[TrainState, Metrics]]


def shared_passes(
    model: DualEncoder,
    objectives: Sequence[Objective],
    params: Any,
    teacher: Any | None,
    batch: dict[str, Any],
    *,
    step: jax.Array,
    seed_key: jax.Array,
) -> Forward:
    """Runs what the objectives have in common, once; the clean images only if an objective wants them."""
    patches = model.embed_patches(params, batch["image"])
    captures = {o.capture for o in objectives if o.capture is not None}
    if len(captures) > 1:
        raise ValueError(f"objectives ask for different blocks of one pass: {sorted(captures)}")
    image = None
    if any(o.needs_clean for o in objectives):
        kept = model.draw_kept(rng.stream(seed_key, "patch_dropout", step), len(patches))
        image = model.encode_patches(params, patches, kept=kept, capture=next(iter(captures), None))
    text = model.encode_text(params, batch["tokens"])
    return Forward(params, teacher, batch, patches, image, text, step, seed_key)


def step_passes(model: DualEncoder, objectives: Sequence[Objective], batch: Batch) -> list[Pass]:
    """What a step runs: the shared passes, and what the objectives declare.

    Args:
      model: the pure functions.
      objectives: those of the step.
      batch: the global batch, or its shapes.
    """
    rows, tokens = batch["tokens"].shape
    passes = [Pass(rows=rows, stem=True, text_tokens=tokens)]
    if any(o.needs_clean for o in objectives):
        trained = any(o.trains_clean for o in objectives)
        passes.append(image_training_pass(model, rows, gradient=trained))
    return passes + [run for o in objectives for run in o.passes(model, batch)]


def total_loss(
    model: DualEncoder, objectives: Sequence[Objective], forward: Forward
) -> tuple[jax.Array, Metrics]:
    """Σ weight · loss over the objectives, and the scalars for the log."""
    total = jnp.zeros((), jnp.float32)
    metrics: Metrics = {}
    for objective in objectives:
        loss, log = objective(model, forward)
        total = total + objective.weight * loss
        metrics[f"loss/{objective.name}"] = loss
        metrics.update(log)
    return total, metrics


def make_train_step(
    model: DualEncoder,
    objectives: Sequence[Objective],
    optimizer: optax.GradientTransformation,
    *,
    schedule: Schedule,
    ema_decay: float,
    seed: int,
) -> TrainStep:
    """The step as a pure function of state and batch; jit it with the state donated.

    The batch is the global batch: partners, λ and negatives are those of all devices together.
    """

    def train_step(state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, Metrics]:
        seed_key = jax.random.key(seed)

        def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
            forward = shared_passes(
                model,
                objectives,
                params,
                state.ema_params,
                batch,
                step=state.step,
                seed_key=seed_key,
            )
            return total_loss(model, objectives, forward)

        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        with jax.named_scope(
            "optimizer"
        ):  # its products are not the model's work (`training.flops`)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = model.constrain(optax.apply_updates(state.params, updates))
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = ema_update(ema_params, params, ema_decay)
        norm = global_norm(grads)
        # A finite gradient can still make an update that ruins the weights, and they would be saved. The new
        # weights are looked at, not the updates: those would have to be kept for it, as large as the model.
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(global_norm(params))
        metrics |= {
            "loss": loss,
            "lr": schedule(state.step),
            "temperature": model.temperature(state.params),
            "grad_norm": norm,
            "finite": finite,
        }
        new = TrainState(state.step + 1, params, ema_params, opt_state)
        return new, metrics

    return train_step


def jit_train_step(step: TrainStep, layout: Layout, state: TrainState) -> Any:
    """The step compiled once, its state donated.

    The new state lies as the old one: left to the compiler it could lie elsewhere, and the next step compile anew.

    Args:
      step: from `make_train_step`.
      layout: of the mesh.
      state: the state, or its shapes.
    """
    shardings = (layout.shardings(state), layout.replicated)
    return jax.jit(step, donate_argnums=0, out_shardings=shardings)
