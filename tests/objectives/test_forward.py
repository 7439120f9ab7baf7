"""Each distinct pass of a step runs once; an objective's state is trained, saved and resumed."""

import dataclasses
import shutil
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting_model import counting, mark_teacher
from objective_runs import BATCH, MODEL, mixed
from tiny_model import compiler_settings, make_batch, make_forward, make_params, tiny_model
from tiny_run import arrays, assert_same_run, copy_run, tiny_config

from timix_jax.objectives import OBJECTIVES, Feature, Objective, Term, build_objective
from timix_jax.training.train import train_and_evaluate

REGION_IMAGES, REGIONS_PER_IMAGE = 2, 3


@dataclasses.dataclass(frozen=True)
class NearTeacher(Objective):
    """Mean distance of the student's embeddings from the teacher's."""

    name: ClassVar[str] = "near_teacher"

    def reads(self, model):
        return [Feature(t, teacher=of) for t in ("image", "text") for of in (False, True)]

    def __call__(self, forward):
        image = forward.image().embedding - forward.image(teacher=True).embedding
        text = forward.text().embedding - forward.text(teacher=True).embedding
        return Term(jnp.mean(image**2) + jnp.mean(text**2))


@dataclasses.dataclass(frozen=True)
class RunningMean(Objective):
    """Pulls captions towards the running mean of their embeddings, which is the objective's state.

    Attributes:
      decay: decay of the running mean.
    """

    decay: float = 0.5

    name: ClassVar[str] = "running_mean"

    def reads(self, model):
        return [Feature("text")]

    def init_state(self, model) -> Any:
        return {"mean": jnp.zeros(model.embed_dim), "steps": jnp.zeros((), jnp.int32)}

    def __call__(self, forward):
        state = forward.state[self.name]
        text = forward.text().embedding
        batch_mean = jax.lax.stop_gradient(text.mean(axis=0))
        mean = self.decay * state["mean"] + (1 - self.decay) * batch_mean
        loss = jnp.mean(jnp.sum((text - state["mean"]) ** 2, axis=1))
        new = {"mean": mean, "steps": state["steps"] + 1}
        return Term(loss, {"running_steps": new["steps"].astype(jnp.float32)}, new)


def traced_passes(objectives, *, teacher=True):
    """Count the passes of a step of these objectives, its gradient included."""
    model = counting(MODEL)
    params = jax.eval_shape(model.init, jax.random.key(0))  # shapes suffice: nothing runs
    batch = make_batch(BATCH, REGION_IMAGES, REGIONS_PER_IMAGE)

    def loss(params, ema_params):
        forward = make_forward(model, objectives, params, batch, 0, ema_params)
        return sum(objective(forward).loss for objective in objectives)

    jax.eval_shape(jax.grad(loss), params, mark_teacher(params) if teacher else None)
    return dict(model.passes)


def test_each_distinct_pass_runs_once():
    """Scores and reference of the mixed half of the batch come from the clean pass."""
    objectives = (
        build_objective("itc", alpha=0.4),
        NearTeacher(),
        build_objective("pta"),
        mixed("timix", score="tpp", target="blend", fraction=0.5),
    )
    expected = {
        ("encode_image", "student", BATCH): 1,
        ("encode_image", "teacher", BATCH): 1,
        ("encode_image", "student", BATCH // 2): 1,
        ("encode_blocks", "student", REGION_IMAGES): 1,
        ("encode_text", "student", BATCH): 1,
        ("encode_text", "teacher", BATCH): 1,
        ("encode_text", "student", REGION_IMAGES * REGIONS_PER_IMAGE): 1,
    }
    assert traced_passes(objectives) == expected
    assert traced_passes(objectives[::-1]) == expected


def test_scores_without_a_clean_pass_run_blocks_only():
    replaced = mixed("timix", score="tpp", placement="replace")
    assert traced_passes((replaced,), teacher=False) == {
        ("encode_blocks", "student", BATCH): 1,
        ("encode_image", "student", BATCH): 1,
        ("encode_text", "student", BATCH): 1,
    }


def test_dropout_follows_the_step_and_spares_the_teacher():
    model = tiny_model(text_dropout=0.3)
    params, batch, itc = make_params(model), make_batch(BATCH), build_objective("itc", alpha=0.4)

    @jax.jit
    def texts(step):
        forward = make_forward(model, (itc,), params, batch, step, params)
        return forward.text().embedding, forward.text(teacher=True).embedding

    (first, teacher), again, (later, same) = (texts(step) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again[0])
    assert np.abs(first - later).max() > 1e-2
    np.testing.assert_array_equal(teacher, same)
    assert np.abs(first - teacher).max() > 1e-2


def test_undeclared_features_are_refused():
    forward = make_forward(MODEL, (RunningMean(),), None, make_batch(BATCH), 0)
    with pytest.raises(ValueError, match="was not declared by `reads`"):
        forward.image()
    with pytest.raises(ValueError, match="no objective of this step has a view 'mixed'"):
        forward.view("mixed")


@pytest.mark.slow
def test_state_of_an_objective_is_trained_saved_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "running_mean", RunningMean)
    config = tiny_config(4, mix__mixer="none", loss__pta__weight=0.0, eval__sets=())
    config.loss.running_mean.update(weight=0.1, decay=0.25)
    config.checkpoint.keep_last = 2
    whole = tmp_path / "whole"
    with compiler_settings():
        train_and_evaluate(config, str(whole))
        mean, steps = arrays(whole, 4, "objectives")
        assert steps == 4
        assert np.abs(mean).max() > 0.01
        resumed = copy_run(whole, tmp_path / "resumed")
        shutil.rmtree(resumed / "checkpoints" / "00000004")
        (resumed / "results.json").unlink()
        assert arrays(resumed, 2, "objectives")[1] == 2
        train_and_evaluate(config, str(resumed))
    assert_same_run(whole, resumed, 4, ("params", "ema_params", "opt_state", "objectives"))
