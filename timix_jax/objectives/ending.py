"""An objective that ends before the training does."""

from typing import Any

import jax
import jax.numpy as jnp

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Array, Forward, Objective


def until_its_end(
    objective: Objective, model: DualEncoder, forward: Forward
) -> tuple[Array, dict[str, Array]]:
    """The objective's loss and scalars; all 0, and nothing computed, from step ``ends_at`` on.

    The conditional lies round the loss and its gradient together: round the loss alone, all that the backward pass
    needs would have to leave it, which costs a tenth of the step. What the objectives share stays outside, so that
    it is compiled once. Where nothing ends there is no conditional.

    Returns:
      The unweighted loss, and scalars for the log, through which no gradient flows.
    """
    end = objective.ends_at
    if end is None:
        return objective(model, forward)

    def loss(inputs: Any, rest: Any) -> tuple[Array, dict[str, Array]]:
        params, patches, image, text = inputs
        teacher, batch, step, seed_key = rest
        passes = Forward(params, teacher, batch, patches, image, text, step, seed_key)
        return objective(model, passes)

    def until_end(function: Any, inputs: Any, rest: Any) -> Any:
        absent = jax.eval_shape(function, inputs, rest)
        zeros = lambda *_: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), absent)
        return jax.lax.cond(forward.step < end, function, zeros, inputs, rest)

    @jax.custom_vjp
    def run(inputs: Any, rest: Any) -> Any:
        return until_end(loss, inputs, rest)

    def forwards(inputs: Any, rest: Any) -> Any:
        return until_end(jax.value_and_grad(loss, has_aux=True), inputs, rest)

    def backwards(gradient: Any, cotangent: Any) -> Any:
        scale, _ = cotangent
        return jax.tree.map(lambda g: scale.astype(g.dtype) * g, gradient), None

    run.defvjp(forwards, backwards)
    inputs = (forward.params, forward.patches, forward.image, forward.text)
    rest = (forward.teacher, forward.batch, forward.step, forward.seed_key)
    return run(inputs, rest)
