"""Objectives that end before the training does: the same numbers, one trace, no activations kept."""

import collections
import dataclasses
import functools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import GRID, make_batch, make_params, tiny_model

from timix_jax.mixing import build_mixer
from timix_jax.objectives import build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.train_step import shared_passes, total_loss

pytestmark = pytest.mark.usefixtures("fast_compilation")

MODEL = tiny_model()
ENDS = 4
KEPT = (build_objective("itc"),)


@dataclasses.dataclass(frozen=True)
class Pull:
    """(log τ)²: its loss and gradient are known."""

    ends_at: int | None
    weight: float = 3.0

    name: ClassVar[str] = "pull"
    needs_clean: ClassVar[bool] = False
    capture: ClassVar[int | None] = None

    def __call__(self, model, forward):
        value = forward.params["log_temperature"]
        return jnp.square(value), {"pulled": value > -10}


def mixed(**options):
    mixer = build_mixer("timix", grid=GRID)
    return MixedContrastive(mixer, build_score_source("tpp", MODEL), weight=0.7, **options)


def loss_and_gradient(objectives, params, batch, step):
    def loss_fn(params):
        forward = shared_passes(
            MODEL, objectives, params, None, batch, step=step, seed_key=jax.random.key(0)
        )
        return total_loss(MODEL, objectives, forward)

    (loss, log), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return loss, log, grads


def test_same_numbers_before_and_after_each_end():
    """Two ends: the mixed view's, and that of a term with a known loss and gradient."""
    params, batch = make_params(MODEL), make_batch(8)
    objectives = (*KEPT, Pull(ends_at=2), mixed(target="pred", ramp_steps=8, until_step=ENDS))
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(params, batch, step):
        return loss_and_gradient(objectives, params, batch, step)

    plain = jax.jit(loss_and_gradient, static_argnums=0)  # of terms without an end
    with_mixing = functools.partial(plain, (*KEPT, mixed(target="pred", ramp_steps=8)))
    without = functools.partial(plain, KEPT)
    absent = {"loss/mix": 0.0, "gamma": 0.0, "lambda": 0.0, "window": 0.0}
    pull = float(params["log_temperature"])
    for step in (0, 1, 2, ENDS - 1, ENDS, ENDS + 1):
        loss, log, grads = run(params, batch, jnp.int32(step))
        rest = with_mixing if step < ENDS else without
        want_loss, want_log, want_grads = rest(params, batch, jnp.int32(step))
        pulling = step < 2
        want_loss += 3 * pull**2 * pulling
        want_log = absent | want_log | {"loss/pull": pull**2 * pulling, "pulled": pulling}
        want_grads["log_temperature"] += 3 * 2 * pull * pulling
        assert loss == pytest.approx(float(want_loss), rel=1e-5)
        assert log.keys() == want_log.keys()
        for name, value in want_log.items():
            assert log[name] == pytest.approx(float(value), rel=1e-5), name
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_only_scalars_and_gradients_leave_the_conditional():
    """Activations saved across it are what made the step a tenth slower."""
    params, batch = make_params(MODEL), make_batch(8)
    step = jnp.int32(0)
    passes = shared_passes(MODEL, KEPT, params, None, batch, step=step, seed_key=jax.random.key(0))
    shared = jax.tree.leaves((params, passes.patches, passes.image, passes.text))

    def conditionals(objectives):
        """Those outside of the mixer, whose own choose a window."""
        equations = jax.make_jaxpr(lambda p, s: loss_and_gradient(objectives, p, batch, s))(
            params, step
        ).jaxpr.eqns
        return [e for e in equations if e.primitive.name == "cond" and len(e.outvars) > 20]

    assert conditionals((*KEPT, mixed())) == []
    (only,) = conditionals((*KEPT, mixed(until_step=ENDS)))
    leaving = collections.Counter(v.aval.shape for v in only.outvars if v.aval.shape)
    # The gradient with respect to the parameters and to what the objectives share; the window (4,).
    assert not leaving - collections.Counter([leaf.shape for leaf in shared] + [(4,)])
    after, before = (str(branch) for branch in only.params["branches"])
    assert before.count("dot_general") > 0 == after.count("dot_general")
