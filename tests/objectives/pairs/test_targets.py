"""Targets of mixed batches compared with matrices written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from target_matrices import hard, matrices, pred, pred_shared

from timix_jax.mixing.partners import ANY_PARTNERS, derangement, flip
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.pairs.targets import build_target

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


def test_hard_of_an_odd_batch_keeps_the_middle_row():
    i2t, t2i = hard(jnp.array([0.75, 1.0, 0.75]), flip(3))
    np.testing.assert_array_equal(i2t, [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]])
    np.testing.assert_array_equal(t2i, i2t)
    own, _ = hard(jnp.array([0.75, 0.5, 0.75]), flip(3))
    assert own[1, 1] == 1.0  # both parts are its own, whatever λ


def test_hard_of_a_cycle_transposes():
    """Image k shows captions k and k+1, so images j and j−1 show caption j."""
    i2t, t2i = hard(jnp.full(3, 0.75), jnp.array([1, 2, 0]))
    np.testing.assert_array_equal(i2t, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])
    np.testing.assert_array_equal(t2i, [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]])


def test_hard_with_one_lambda_per_row_is_renormalised_by_text():
    i2t, t2i = hard(jnp.array([0.5, 1.0]), jnp.array([1, 1]))
    np.testing.assert_array_equal(i2t, [[0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(t2i, [[1, 0], [1 / 3, 2 / 3]], rtol=1e-6)


def test_hard_of_a_caption_that_no_image_shows_is_zero():
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
    """The formula of docs/method.md §4, unchanged."""
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
        matrices("blend", lam, partner, logits, beta=0.25, label_smoothing=0.1), ends, strict=True
    ):
        np.testing.assert_allclose(got, 0.25 * given + 0.75 * predicted, rtol=1e-6)


@pytest.mark.parametrize("name", ["hard", "pred", "pred_shared", "blend"])
@pytest.mark.parametrize("pairing", ["flip", "cycle"])
def test_rows_add_to_one_and_no_gradient_flows(logits, name, pairing):
    partner = flip(B) if pairing == "flip" else derangement(jax.random.key(0), B)
    lam = jnp.linspace(0.2, 0.9, B)

    def build(values):
        return matrices(name, lam, partner, values, beta=0.3, label_smoothing=0.1)

    for target in build(logits):
        np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)
        assert (target >= 0).all()
    gradient = jax.grad(lambda values: sum(jnp.sum(t**2) for t in build(values)))(logits)
    np.testing.assert_array_equal(gradient, 0)


def test_weights_of_several_partners_need_not_add_to_one():
    """Three partners in a ring, by hand: rows of captions are renormalised, rows of images are not."""
    partner = jnp.stack([jnp.roll(jnp.arange(4), -k) for k in (1, 2, 3)], axis=1)
    weight = jnp.array([[0.5, 0.25, 0.0]] * 4)
    i2t, t2i = matrices("hard", jnp.full(4, 1.0), partner, weight=weight)
    want = np.array([[1, 0.5, 0.25, 0], [0, 1, 0.5, 0.25], [0.25, 0, 1, 0.5], [0.5, 0.25, 0, 1]])
    np.testing.assert_array_equal(i2t, want)
    np.testing.assert_allclose(t2i, want.T / 1.75, rtol=1e-6)


@pytest.mark.parametrize("name", ["hard", "pred", "pred_shared", "blend"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_moments_are_those_of_the_matrices(logits, name, kind):
    """Σ_j T_kj · embedding_j and Σ_j T_kj for three partners with free weights, in both directions."""
    rng = np.random.default_rng(3)
    image, text, clean = (jnp.float32(rng.normal(size=(B, 4))) for _ in range(3))
    partner = jnp.stack([jnp.roll(jnp.arange(B), -k) for k in (1, 2, 4)], axis=1)
    weight = jnp.float32(rng.uniform(0.1, 0.6, (B, 3)))
    shares = Shares(jnp.linspace(0.2, 0.9, B), partner, ANY_PARTNERS, weight)
    s = Similarities(image, text, jnp.float32(0.5), jnp.float32(-1.0))
    reference = s._replace(image=clean)
    target, one = build_target(name, beta=0.3, label_smoothing=0.1), KINDS[kind]
    i2t, t2i = target.matrices(one, shares, reference.matrix())
    by_image, by_text = target.moments(one, s, shares, reference, PairReduction("ring", 4))
    np.testing.assert_allclose(by_image.embedding, i2t @ text, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_image.total, i2t.sum(axis=1), rtol=1e-5)
    if not one.one_target:
        np.testing.assert_allclose(by_text.embedding, t2i @ image, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(by_text.total, t2i.sum(axis=1), rtol=1e-5)
