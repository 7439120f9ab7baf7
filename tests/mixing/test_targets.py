"""Targets of mixed batches against matrices written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing.partners import derangement, flip
from timix_jax.mixing.targets import blend, hard, mixed_targets, pred, pred_shared

B = 6


def softmax(values):
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.fixture
def logits():
    return 3 * np.random.default_rng(0).normal(size=(B, B)).astype(np.float32)


def normalise(rows):
    return rows / rows.sum(axis=1, keepdims=True)


def test_hard_of_the_flip():
    i2t, t2i = hard(jnp.full(4, 0.75), flip(4))
    expected = [
        [0.75, 0, 0, 0.25],
        [0, 0.75, 0.25, 0],
        [0, 0.25, 0.75, 0],
        [0.25, 0, 0, 0.75],
    ]
    np.testing.assert_array_equal(i2t, expected)
    np.testing.assert_array_equal(t2i, expected)


def test_hard_of_an_odd_batch_leaves_the_middle_alone():
    i2t, t2i = hard(jnp.array([0.75, 1.0, 0.75]), flip(3))
    np.testing.assert_array_equal(i2t, [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]])
    np.testing.assert_array_equal(t2i, i2t)
    own, _ = hard(jnp.array([0.75, 0.5, 0.75]), flip(3))
    assert own[1, 1] == 1.0  # both parts are its own, whatever λ


def test_hard_of_a_cycle_transposes():
    """Image k carries captions k and k+1, so caption j is carried by images j and j−1."""
    i2t, t2i = hard(jnp.full(3, 0.75), jnp.array([1, 2, 0]))
    np.testing.assert_array_equal(i2t, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])
    np.testing.assert_array_equal(t2i, [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]])


def test_hard_with_a_lambda_a_row_is_renormalised_by_text():
    i2t, t2i = hard(jnp.array([0.5, 1.0]), jnp.array([1, 1]))
    np.testing.assert_array_equal(i2t, [[0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(t2i, [[1, 0], [1 / 3, 2 / 3]], rtol=1e-6)


def test_hard_of_a_caption_that_no_image_carries_asks_nothing():
    _, t2i = hard(jnp.array([0.0, 1.0]), jnp.array([1, 1]))
    np.testing.assert_array_equal(t2i, [[0, 0], [0.5, 0.5]])


def test_label_smoothing():
    i2t, _ = hard(jnp.full(4, 0.75), flip(4), label_smoothing=0.2)
    np.testing.assert_allclose(i2t[0], [0.65, 0.05, 0.05, 0.25], rtol=1e-6)


@pytest.mark.parametrize("pairing", ["flip", "cycle"])
def test_pred_against_loops(logits, pairing):
    partner = np.asarray(flip(B) if pairing == "flip" else derangement(jax.random.key(0), B))
    lam = np.linspace(0.3, 0.9, B).astype(np.float32)
    images, texts = softmax(logits), softmax(logits.T)
    want_i2t, want_t2i = np.zeros((B, B)), np.zeros((B, B))
    for k in range(B):
        for j in range(B):
            want_i2t[k, j] = lam[k] * images[k, j] + (1 - lam[k]) * images[partner[k], j]
            want_t2i[j, k] = lam[k] * texts[j, k] + (1 - lam[k]) * texts[j, partner[k]]
    i2t, t2i = pred(lam, partner, logits)
    np.testing.assert_allclose(i2t, want_i2t, rtol=1e-5)
    np.testing.assert_allclose(t2i, normalise(want_t2i), rtol=1e-5)


def test_pred_of_one_lambda_and_an_involution_needs_no_renormalising(logits):
    """The formula of the paper, §4, as it stands."""
    partner, texts = flip(B), softmax(logits.T)
    _, t2i = pred(jnp.full(B, 0.7), partner, logits)
    np.testing.assert_allclose(t2i, 0.7 * texts + 0.3 * texts[:, partner], rtol=1e-5)


def test_pred_tends_to_hard_for_a_sure_model():
    lam, partner = jnp.full(B, 0.7), flip(B)
    for got, expected in zip(pred(lam, partner, 200 * jnp.eye(B)), hard(lam, partner), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_pred_shared_repeats_the_image_target(logits):
    lam, partner = jnp.full(B, 0.7), flip(B)
    i2t, t2i = pred_shared(lam, partner, logits)
    np.testing.assert_array_equal(i2t, t2i)
    np.testing.assert_array_equal(i2t, pred(lam, partner, logits)[0])


def test_blend_is_between(logits):
    lam, partner = jnp.full(B, 0.7), flip(B)
    ends = zip(hard(lam, partner, 0.1), pred(lam, partner, logits), strict=True)
    for got, (given, predicted) in zip(
        blend(lam, partner, logits, 0.25, label_smoothing=0.1), ends, strict=True
    ):
        np.testing.assert_allclose(got, 0.25 * given + 0.75 * predicted, rtol=1e-6)


@pytest.mark.parametrize("name", ["hard", "pred", "pred_shared", "blend"])
@pytest.mark.parametrize("pairing", ["flip", "cycle"])
def test_rows_add_to_one_and_no_gradient_flows(logits, name, pairing):
    partner = flip(B) if pairing == "flip" else derangement(jax.random.key(0), B)
    lam = jnp.linspace(0.2, 0.9, B)

    def build(values):
        return mixed_targets(name, lam, partner, values, beta=0.3, label_smoothing=0.1)

    for target in build(logits):
        np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)
        assert (target >= 0).all()
    gradient = jax.grad(lambda values: sum(jnp.sum(t**2) for t in build(values)))(logits)
    np.testing.assert_array_equal(gradient, 0)


def test_unknown_name(logits):
    with pytest.raises(UserError, match="'soft' is unknown; use one of"):
        mixed_targets("soft", jnp.ones(B), flip(B), logits)
