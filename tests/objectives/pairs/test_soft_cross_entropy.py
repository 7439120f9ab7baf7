"""The mixed loss: value, gradient and theory (docs/method.md §§4, 7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from target_matrices import hard, pred

from timix_jax.mixing.partners import flip
from timix_jax.objectives.pairs.soft_cross_entropy import soft_contrastive, symmetric_contrastive

B = 6

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def logits():
    return jnp.asarray(2 * np.random.default_rng(0).normal(size=(B, B)))


@pytest.fixture
def targets():
    rows = np.random.default_rng(1).dirichlet(np.ones(B), size=(2, B))
    return jnp.asarray(rows[0]), jnp.asarray(rows[1])


def log_softmax(values):
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def test_value_against_loops(logits, targets):
    s, (i2t, t2i) = np.asarray(logits), targets
    total = 0.0
    for k in range(B):
        for j in range(B):
            total -= i2t[k, j] * log_softmax(s)[k, j] / (2 * B)
            total -= t2i[k, j] * log_softmax(s.T)[k, j] / (2 * B)
    np.testing.assert_allclose(soft_contrastive(logits, i2t, t2i), total, rtol=1e-12)


def test_gradient_is_softmax_minus_target(logits, targets):
    i2t, t2i = targets
    images = (jax.nn.softmax(logits, axis=1) - i2t) / B
    texts = (jax.nn.softmax(logits.T, axis=1) - t2i).T / B
    gradient, to_i2t, to_t2i = jax.grad(soft_contrastive, (0, 1, 2))(logits, i2t, t2i)
    np.testing.assert_allclose(gradient, (images + texts) / 2, rtol=1e-10)
    np.testing.assert_array_equal(to_i2t, 0)
    np.testing.assert_array_equal(to_t2i, 0)


def test_symmetric_loss_is_that_of_the_identity(logits):
    identity = jnp.eye(B)
    np.testing.assert_allclose(
        symmetric_contrastive(logits), soft_contrastive(logits, identity, identity), rtol=1e-12
    )


def test_half_precision_and_large_logits_stay_finite(logits):
    identity = jnp.eye(B, dtype=jnp.float32)
    low = (1000 * logits).astype(jnp.bfloat16)
    for value in (symmetric_contrastive(low), soft_contrastive(low, identity, identity)):
        assert value.dtype == jnp.float32
        assert np.isfinite(value)
    np.testing.assert_allclose(
        symmetric_contrastive(low), symmetric_contrastive(low.astype(jnp.float64)), rtol=1e-5
    )


@pytest.mark.parametrize("lam", [0.3, 0.64, 0.9])
def test_t1_mixing_is_infonce_plus_a_margin(logits, lam):
    """L_mix = L_a + (1−λ)(s_a − s_b)/τ as a mean over rows; the logits include τ."""
    partner = flip(B)
    i2t, t2i = hard(jnp.full(B, lam), partner)
    own = jnp.diagonal(logits)
    other_text = logits[jnp.arange(B), partner]
    other_image = logits[partner, jnp.arange(B)]
    margin = (1 - lam) * jnp.mean((own - other_text) + (own - other_image)) / 2
    np.testing.assert_allclose(
        soft_contrastive(logits, i2t, t2i), symmetric_contrastive(logits) + margin, rtol=1e-12
    )


def test_t1_the_optimum_is_finite():
    """The optimal free similarities have s_a − s_b = τ·log(λ/(1−λ))."""
    lam, tau = 0.8, 0.07
    i2t, t2i = hard(jnp.full(B, lam), flip(B))

    @jax.jit
    def descend(similarities):
        def loss(values):
            return soft_contrastive(values / tau, i2t, t2i)

        def step(_, values):
            return values - 2 * B * tau**2 * jax.grad(loss)(values)

        return jax.lax.fori_loop(0, 4000, step, similarities)

    start = jnp.asarray(0.1 * np.random.default_rng(0).normal(size=(B, B)))
    found = descend(start)
    gap = jnp.diagonal(found) - found[jnp.arange(B), flip(B)]
    np.testing.assert_allclose(gap, tau * np.log(lam / (1 - lam)), rtol=1e-2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("lam", [0.3, 0.64, 0.9])
def test_t4_floor(logits, lam, scale):
    entropy = -lam * np.log(lam) - (1 - lam) * np.log(1 - lam)
    i2t, t2i = hard(jnp.full(B, lam), flip(B))
    assert soft_contrastive(scale * logits, i2t, t2i) >= entropy
    best = jnp.log(jnp.maximum(i2t, 1e-30))
    np.testing.assert_allclose(soft_contrastive(best, i2t, t2i), entropy, rtol=1e-9)


def test_t4_a_uniform_model_is_stationary_for_predicted_targets():
    flat = jnp.zeros((B, B))
    i2t, t2i = pred(jnp.full(B, 0.7), flip(B), flat)
    gradient = jax.grad(soft_contrastive)(flat, i2t, t2i)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    hard_gradient = jax.grad(soft_contrastive)(flat, *hard(jnp.full(B, 0.7), flip(B)))
    assert jnp.abs(hard_gradient).max() > 0.01
