"""ALBEF in the training step: one update, and an average of every weight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fusion_runs import VOCAB, fusion_batch, tiny_albef
from tiny_model import make_params

from timix_jax.objectives.contrastive import Contrastive
from timix_jax.objectives.image_text_matching import ImageTextMatching
from timix_jax.objectives.masked_words import MaskedLanguage
from timix_jax.optim import schedule
from timix_jax.optim.optimizer import make_optimizer
from timix_jax.parallel.paths import path_names
from timix_jax.training import state as train_state
from timix_jax.training.step import make_train_step

MODEL = tiny_albef(depth=1, text_dropout=0.1, scan=False)
OBJECTIVES = (
    Contrastive(alpha=0.4),
    ImageTextMatching(),
    MaskedLanguage(rate=0.5, most=0.5, alpha=0.4, vocabulary=VOCAB),
)
EMA = 0.995


@pytest.fixture(scope="module")
def two_steps():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    rate = schedule.warmup_cosine(1e-2, 10, 1, 1e-2, 1e-3)
    optimizer = make_optimizer(
        *(shapes, MODEL.parameter_axes()),
        schedule=rate,
        name="adamw",
        b1=0.9,
        b2=0.999,
        weight_decay=0.02,
        clip_norm=1.0,
        lr_scales=(),
    )
    params = make_params(MODEL)
    before = train_state.TrainState(
        jnp.int32(0), params, make_params(MODEL, seed=1), optimizer.init(params)
    )
    step = make_train_step(MODEL, OBJECTIVES, optimizer, schedule=rate, ema_decay=EMA, seed=0)
    after, metrics = jax.jit(step)(before, fusion_batch())
    return before, after, metrics, step


@pytest.mark.slow
def test_the_teacher_averages_every_weight(two_steps):
    """Public code leaves the fusion encoder out of its average."""
    before, after, *_ = two_steps
    moved = set()
    for (name, ema), old, new, start in zip(
        path_names(after.ema_params),
        jax.tree.leaves(before.ema_params),
        jax.tree.leaves(after.params),
        jax.tree.leaves(before.params),
        strict=True,
    ):
        np.testing.assert_allclose(ema, EMA * old + (1 - EMA) * new, atol=1e-6, err_msg=name)
        if (np.asarray(new) != np.asarray(start)).any():
            moved.add(name)
    still = {name for name, _ in path_names(after.params)} - moved
    assert all(name.startswith("patch_predictor") for name in still), still


@pytest.mark.slow
def test_one_update_of_one_summed_loss(two_steps):
    _, after, metrics, _ = two_steps
    parts = [metrics[f"loss/{o.name}"] for o in OBJECTIVES]
    assert metrics["loss"] == pytest.approx(float(sum(parts)), rel=1e-6)
    assert after.step == 1
    counts = {int(leaf) for name, leaf in path_names(after.opt_state) if name.endswith("count")}
    assert counts == {1}
    for name in ("itm_accuracy", "itm_negatives", "mlm_accuracy", "batch_accuracy"):
        assert 0 <= metrics[name] <= 1
    assert metrics["finite"]


@pytest.mark.slow
def test_the_student_s_dropout_follows_the_step(two_steps):
    before, _, metrics, step = two_steps
    later = dataclasses.replace(before, step=jnp.int32(1))
    _, other = jax.jit(step)(later, fusion_batch())
    assert abs(float(other["loss/itc"]) - float(metrics["loss/itc"])) > 1e-5
