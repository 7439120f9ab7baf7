"""Several captions as several positives: value and gradient in float64 NumPy, and what reaches the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_runs import BATCH, MODEL, assert_trees_close, embeddings, run
from tiny_model import TOKENS, VOCABULARY, make_batch, make_params
from tiny_run import tiny_config

from timix_jax.errors import UserError
from timix_jax.objectives import build_objective
from timix_jax.training import build as experiment

COUNT = 3


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(4)
    found = {name: value for name, value in make_batch(BATCH).items() if name != "regions"}
    shape = (BATCH, COUNT, TOKENS)
    return found | {"captions": jnp.asarray(rng.integers(1, VOCABULARY, shape), jnp.int32)}


@pytest.mark.slow
def test_each_set_of_captions_is_a_set_of_candidates(params, batch):
    """No caption is a negative of its own image: the k-th captions are compared with each other only."""
    value, log, grads, _ = run(build_objective("captions", count=COUNT), params, batch, 0)

    def reference(params):
        total = 0.0
        for k in range(COUNT):
            image, text, tau = embeddings(params, batch["image"], batch["captions"][:, k])
            s = image @ text.T / tau
            own = jnp.diagonal(s)
            rows, columns = (jax.nn.logsumexp(s, axis=axis) for axis in (1, 0))
            total += jnp.mean((rows + columns) / 2 - own)
        return total / COUNT

    losses = []
    for k in range(COUNT):
        image, text, tau = embeddings(params, batch["image"], batch["captions"][:, k])
        s = np.float64(image) @ np.float64(text).T / float(tau)
        top = s.max()
        rows, columns = (np.log(np.exp(s - top).sum(axis)) + top for axis in (1, 0))
        losses.append(np.mean((rows + columns) / 2 - np.diagonal(s)))
    assert value == pytest.approx(np.mean(losses), rel=1e-5)
    assert np.ptp(losses) > 1e-3, "the order of the captions must matter for the test"
    assert_trees_close(grads, jax.jit(jax.grad(reference))(params))
    assert 0 <= log["captions_accuracy"] <= 1


@pytest.mark.slow
def test_the_pipeline_and_the_step_agree_on_the_batch():
    config = tiny_config(2, loss__captions__weight=2.0, loss__captions__count=2)
    run = experiment.build(experiment.read_settings(config))
    assert "captions" in [objective.name for objective in run.objectives]
    batch = run.first_batch()
    shapes = experiment.batch.abstract_batch(run.settings)
    assert batch["captions"].shape == shapes["captions"].shape == (16, 2, 12)
    assert (batch["captions"][:, 0] != batch["tokens"]).any(axis=1).any()
    plain = experiment.build(experiment.read_settings(tiny_config(2))).first_batch()
    assert "captions" not in plain


def test_a_count_of_none_is_refused():
    with pytest.raises(UserError, match=r"captions\.count=0: give at least 1"):
        build_objective("captions", count=0)
