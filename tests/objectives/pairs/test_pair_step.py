"""Training steps with a tiled loss on eight devices compared with the dense loss on one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import GRID, make_batch, make_params, tiny_model

from timix_jax.config import default_config
from timix_jax.errors import UserError
from timix_jax.mixing import build_mixer
from timix_jax.mixing.partners import Partners
from timix_jax.objectives import build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import DENSE, PairReduction
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh, put_batch, replicated
from timix_jax.training import build as experiment
from timix_jax.training import state as train_state
from timix_jax.training.step import make_train_step

FRACTION = 0.75  # 12 mixed rows on 8 devices


def one_step(reduction, mesh):
    """Return metrics and parameters after one step of gradient descent, which moves them by the gradient."""
    model = tiny_model(logit_bias_init=-1.0)
    pairs = PairLoss(KINDS["sigmoid"], reduction)
    mix = MixedContrastive(
        build_mixer("timix", grid=GRID, partner="derangement"),
        build_score_source("tpp", model),
        target="blend",
        label_smoothing=0.1,
        fraction=FRACTION,
        pairs=pairs,
    )
    objectives = [build_objective("itc", pairs=pairs), mix]
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        model, objectives, optimizer, schedule=lambda _: jnp.float32(1), ema_decay=0.9, seed=0
    )
    params = make_params(model)
    params["logit_bias"] = jnp.float32(-1.0)
    state = jax.eval_shape(
        lambda key: train_state.create(model, optimizer, key, ema=False), jax.random.key(0)
    )
    state = dataclasses.replace(
        state, step=jnp.int32(0), params=params, opt_state=optimizer.init(params)
    )
    batch = {name: value for name, value in make_batch(16).items() if name != "regions"}
    new, metrics = jax.jit(step)(jax.device_put(state, replicated(mesh)), put_batch(batch, mesh))
    return metrics, params, new.params


@pytest.mark.slow
def test_a_step_is_the_same():
    """With a bias of the logits; softmax is in the steps of the other tests on meshes."""
    want_metrics, start, want = one_step(DENSE, make_mesh(jax.devices()[:1]))
    mesh = make_mesh(data=4, fsdp=2)
    got_metrics, _, got = one_step(PairReduction("ring", 1, mesh), mesh)
    assert "logit_bias" in want_metrics
    assert "logit_bias" in want
    for name, value in want_metrics.items():
        assert got_metrics[name] == pytest.approx(float(value), rel=2e-5), name
    largest = max(
        jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), want, start))
    )
    for (path, a), b, before in zip(
        jax.tree_util.tree_leaves_with_path(got),
        jax.tree.leaves(want),
        jax.tree.leaves(start),
        strict=True,
    ):
        # What a step moves, relative to the largest move; parameters themselves are rounded to 2⁻²⁴.
        np.testing.assert_allclose(
            a - before, b - before, atol=2e-5 * largest, err_msg=jax.tree_util.keystr(path)
        )


def test_a_configuration_reaches_every_loss_over_pairs():
    config = default_config()
    config.model.image.update(size=16, patch=4, width=16, depth=2, heads=2, mlp_dim=32)
    config.model.text.update(max_tokens=12, width=16, depth=1, heads=2, mlp_dim=32)
    config.model.tpp_layer = 0
    config.contrastive.update(loss="sigmoid", method="ring", chunk=7)
    config.mix.mixer = "timix"
    config.mix.options.timix.within_shard = True
    mesh = make_mesh(data=2, fsdp=4)
    settings = experiment.read_settings(config)
    model = experiment.build_model(settings, vocab_size=9, pad_id=0, layout=Layout(mesh))
    itc, mix = experiment.build_objectives(settings, model, Layout(mesh), lambda value, field: 0)
    assert itc.pairs == mix.pairs == PairLoss(KINDS["sigmoid"], PairReduction("ring", 7, mesh))
    assert mix.mixer.partners == Partners("flip", 8)
    assert jax.eval_shape(model.init, jax.random.key(0))["logit_bias"].shape == ()
    config.contrastive.loss = "softmax"
    model = experiment.build_model(experiment.read_settings(config), vocab_size=9, pad_id=0)
    assert "logit_bias" not in jax.eval_shape(model.init, jax.random.key(0))
    for field, value in (("loss", "hinge"), ("method", "star")):
        config.contrastive.update(loss="softmax", method="dense")
        config.contrastive[field] = value
        settings = experiment.read_settings(config)
        with pytest.raises(UserError, match=rf"config\.contrastive\.{field}='{value}' is unknown"):
            experiment.build_objectives(settings, model, Layout(mesh), lambda value, field: 0)
