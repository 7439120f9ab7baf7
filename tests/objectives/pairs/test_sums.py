"""Reductions over all pairs compared with the whole matrix: float64 values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.objectives.pairs.sums import pair_attention, pair_logsumexp, pair_softplus
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.mesh import make_mesh

N, D = 13, 5  # 8 devices hold two rows each, and one of them none
DIFFERENTIABLE = range(5)  # of `arguments`


@pytest.fixture
def arguments():
    """Return x, t, values, scale, bias, masses, and a cotangent for each side."""
    rng = np.random.default_rng(0)
    x, t, values = rng.normal(size=(3, N, D))
    t += x  # some own pairs win, some don't
    return x, t, values, np.float64(2.0), np.float64(-0.5), *rng.normal(size=(3, N))


def dense(x, t, values, scale, bias, masses, by_x, by_t):
    """Return the weighted sum of the results as a scalar, and the other results."""
    s = scale * x @ t.T
    total = jax.nn.logsumexp(s, axis=1) @ by_x + jax.nn.logsumexp(s, axis=0) @ by_t
    total += jax.nn.softplus(s + bias).sum(axis=1) @ by_x
    constant = jax.lax.stop_gradient(s + bias)
    attended = [w @ values for w in (jax.nn.softmax(constant), jax.nn.sigmoid(constant))]
    others = jnp.where(jnp.eye(N, dtype=bool), -jnp.inf, s)
    hits = jnp.diagonal(s) > jnp.maximum(others.max(axis=0), others.max(axis=1))
    seen = [w @ masses for w in (jax.nn.softmax(constant), jax.nn.sigmoid(constant))]
    return total + sum(by_x @ jnp.sin(out).sum(axis=1) for out in attended), (seen, [hits, hits])


def tiled(reduction):
    def sums(x, t, values, scale, bias, masses, by_x, by_t):
        rows, columns, hits = pair_logsumexp(x, t, scale, reduction)
        softplus, same_hits = pair_softplus(x, t, scale, bias, reduction)
        attended, seen = zip(
            *(
                pair_attention(x, t, values, masses, scale, bias, kernel, reduction)
                for kernel in ("softmax", "sigmoid")
            ),
            strict=True,
        )
        total = rows @ by_x + columns @ by_t + softplus @ by_x
        total += sum(by_x @ jnp.sin(out).sum(axis=1) for out in attended)
        return total, (list(seen), [hits, same_hits])

    return sums


@pytest.mark.parametrize(
    ("method", "shape", "chunk"),
    [
        ("ring", (8, 1, 1), 1),
        ("ring", (2, 2, 2), 3),
        ("gather", (2, 4, 1), 3),
        ("gather", (2, 2, 2), 1024),
        ("ring", (1, 1, 1), 4),
    ],
)
def test_values_and_gradients(x64, arguments, method, shape, chunk):
    data, fsdp, tensor = shape
    mesh = make_mesh(jax.devices()[: data * fsdp * tensor], data=data, fsdp=fsdp, tensor=tensor)
    both = [
        jax.jit(jax.value_and_grad(function, argnums=DIFFERENTIABLE, has_aux=True))(*arguments)
        for function in (dense, tiled(PairReduction(method, chunk, mesh)))
    ]
    ((want, (seen, hits)), gradients), ((got, (seen_too, hits_too)), gradients_too) = both
    assert 0 < np.sum(hits[0]) < N
    np.testing.assert_array_equal(hits_too, hits)
    np.testing.assert_allclose(got, want, rtol=1e-13)
    np.testing.assert_allclose(seen_too, seen, rtol=1e-12, atol=1e-13)
    names = ("x", "t", "values", "scale", "bias")
    for name, a, b in zip(names, gradients_too, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13, err_msg=name)


def test_attention_weights_are_constants(arguments):
    x, t, values, scale, bias, masses, *_ = map(jnp.float32, arguments)

    def out(x, t, values, masses, scale, bias):
        return pair_attention(
            x, t, values, masses, scale, bias, "softmax", PairReduction("ring", 4)
        )[0].sum()

    *gradients, _, _ = jax.grad(out, argnums=range(6))(x, t, values, masses, scale, bias)
    assert [bool(np.any(g)) for g in gradients] == [False, False, True, False]


def test_low_temperatures_do_not_overflow():
    """exp(1000) overflows float32, its logarithm does not."""
    x = jnp.eye(4, 8)
    rows, columns, hits = pair_logsumexp(x, x, jnp.float32(1000.0), PairReduction("ring", 3))
    np.testing.assert_allclose([rows, columns], 1000.0)
    assert hits.all()
    tie = x.at[1].set(x[0])
    hits = pair_logsumexp(tie, tie, jnp.float32(1000.0), PairReduction("ring", 3))[2]
    assert hits.tolist() == [False, False, True, True]


def test_bad_settings():
    with pytest.raises(UserError, match="method='star' is unknown; use one of dense, gather, ring"):
        PairReduction("star")
    with pytest.raises(UserError, match="chunk=0"):
        PairReduction("ring", 0)
