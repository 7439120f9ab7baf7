"""Fast layers compared with their textbook forms: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from timix_jax.models.layers import attend, gelu, widening_dot_general


def test_gelu_is_x_times_the_normal_distribution(x64):
    x = np.linspace(-9, 9, 181)
    cdf = scipy.special.ndtr(x)
    np.testing.assert_allclose(gelu(jnp.asarray(x)), x * cdf, rtol=1e-12, atol=1e-15)
    slope = cdf + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    derivative = jax.vmap(jax.grad(gelu))(jnp.asarray(x))
    np.testing.assert_allclose(derivative, slope, rtol=1e-12, atol=1e-15)


def test_gelu_of_bfloat16_is_rounded_once():
    x = jnp.linspace(-6, 6, 97).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64) * scipy.special.ndtr(np.asarray(x, np.float64))
    value, pull = jax.vjp(gelu, x)
    assert value.dtype == pull(value)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(value.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_values_and_gradients(masked):
    rng = np.random.default_rng(0)
    q, k, v, weights = (jnp.asarray(rng.normal(size=(3, 7, 2, 5)), jnp.float32) for _ in range(4))
    mask = jnp.arange(7) < jnp.array([[7], [4], [1]]) if masked else None

    def reference(q, k, v):
        wide = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(2 * q, k, v, mask=wide)

    ours = lambda q, k, v: attend(2 * q, k, v, mask)
    np.testing.assert_allclose(ours(q, k, v), reference(q, k, v), atol=1e-6)
    of = lambda f: jax.grad(lambda *x: jnp.vdot(weights, f(*x)), argnums=(0, 1, 2))(q, k, v)
    for ours_of, expected in zip(of(ours), of(reference), strict=True):
        np.testing.assert_allclose(ours_of, expected, atol=5e-6)


def test_attention_in_bfloat16():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 64, 2, 16)), jnp.bfloat16) for _ in range(3))
    exact = attend(*(x.astype(jnp.float32) for x in (q, k, v)))
    rounded = attend(q, k, v)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.02)
    gradient = jax.grad(lambda q: jnp.sum(attend(q, k, v).astype(jnp.float32)))(q)
    assert gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize("features", [(6,), (3, 2, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_widening_product_is_the_product(features, dtype):
    rng = np.random.default_rng(1)
    # Small integers: sums are exact in either dtype.
    whole = lambda *shape: jnp.asarray(rng.integers(-2, 3, shape), dtype)
    x, kernel, cotangent = whole(2, 5, 4), whole(4, *features), whole(2, 5, *features)
    numbers = (((2,), (0,)), ((), ()))
    results = []
    for product in (widening_dot_general, jax.lax.dot_general):
        value, pull = jax.vjp(lambda x, w, product=product: product(x, w, numbers), x, kernel)
        results.append((value, *pull(cotangent)))
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)


def test_widening_product_refuses_others():
    with pytest.raises(ValueError, match="not the product of a dense layer"):
        widening_dot_general(jnp.ones((2, 3)), jnp.ones((4, 3)), (((1,), (1,)), ((), ())))
