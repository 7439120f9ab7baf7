"""Sources of patch scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.mixing import scores


def zscore(values):
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).sum(axis=1, keepdims=True) / (values.shape[1] - 1))


def test_standardise_and_constant_rows():
    values = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    np.testing.assert_allclose(scores.standardise(values), zscore(values), rtol=1e-4, atol=1e-5)
    constant = jnp.full((2, 9), -0.7)
    assert np.isfinite(scores.standardise(constant)).all()
    np.testing.assert_allclose(scores.standardise(constant), 0, atol=0.2)


def test_from_logp_is_log_p1_and_not_p1():
    logits = np.random.default_rng(1).normal(size=(2, 9, 2)).astype(np.float32)
    logp = jax.nn.log_softmax(logits)
    got = scores.from_logp(logp)
    np.testing.assert_allclose(got, zscore(np.asarray(logp[..., 1])), rtol=1e-4, atol=1e-5)
    assert np.abs(got - zscore(np.exp(np.asarray(logp[..., 1])))).max() > 0.05


def test_from_similarity_and_attention():
    rng = np.random.default_rng(2)
    patches, text = rng.normal(size=(3, 9, 5)), rng.normal(size=(3, 5))
    expected = np.stack([patch @ caption for patch, caption in zip(patches, text, strict=True)])
    got = scores.from_similarity(
        jnp.asarray(patches, jnp.bfloat16), jnp.asarray(text, jnp.bfloat16)
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, zscore(expected), atol=0.05)
    lowered = jax.jit(scores.from_similarity).lower(np.float32(patches), np.float32(text))
    assert "precision = [HIGHEST, HIGHEST]" in lowered.as_text()
    attention = rng.dirichlet(np.ones(9), size=3).astype(np.float32)
    np.testing.assert_allclose(scores.from_attention(attention), zscore(attention), atol=1e-3)


def test_float64_scores_stay_float64(x64):
    """As in the released code: rounding could make another window the extreme one."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(3, 49))
    logp = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(3, 49, 2))))
    pairs = [
        (scores.from_logp(logp), zscore(np.asarray(logp[..., 1]))),
        (scores.from_attention(jnp.asarray(values)), zscore(values)),
        (scores.from_similarity(jnp.asarray(values)[..., None], jnp.ones((3, 1))), zscore(values)),
    ]
    for got, expected in pairs:
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_random_is_standard_normal_and_depends_on_the_key():
    first, again, other = (scores.random(jax.random.key(seed), 40, 100) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (40, 100)
    assert abs(float(first.mean())) < 0.06
    assert abs(float(first.std()) - 1) < 0.06


def test_from_boxes_is_the_largest_share_covered():
    """Compare with a count of fine pixels."""
    rng = np.random.default_rng(3)
    grid, fine = 4, 25
    corners = np.sort(rng.integers(0, grid * fine + 1, (3, 2, 2, 2)), axis=2) / (grid * fine)
    boxes = corners.reshape(3, 2, 4)  # x0, y0, x1, y1
    mask = np.array([[True, True], [True, False], [False, False]])
    expected = np.zeros((3, grid, grid))
    for b, m in np.argwhere(mask):
        x0, y0, x1, y1 = np.rint(boxes[b, m] * grid * fine).astype(int)
        drawn = np.zeros((grid * fine, grid * fine))
        drawn[y0:y1, x0:x1] = 1
        share = drawn.reshape(grid, fine, grid, fine).mean(axis=(1, 3))
        expected[b] = np.maximum(expected[b], share)
    got = scores.from_boxes(jnp.asarray(boxes, jnp.float32), jnp.asarray(mask), grid)
    assert expected.max() > 0.5
    np.testing.assert_allclose(got, expected.reshape(3, -1), atol=1e-5)


def test_from_boxes_is_row_major():
    got = scores.from_boxes(jnp.array([[[0.5, 0.0, 1.0, 0.5]]]), jnp.array([[True]]), 2)
    np.testing.assert_array_equal(got, [[0, 1, 0, 0]])


@pytest.mark.parametrize(
    "score",
    [
        lambda x: scores.from_logp(jnp.stack([x, x], axis=-1)),
        lambda x: scores.from_similarity(x[..., None], jnp.ones((2, 1))),
        scores.from_attention,
        lambda x: scores.from_boxes(x.reshape(2, 1, 4), jnp.ones((2, 1), bool), 2),
    ],
)
def test_no_gradient(score):
    values = jnp.array([[0.1, 0.2, 0.7, 0.9], [0.0, 0.3, 0.5, 0.8]])
    assert jnp.abs(score(values)).sum() > 0
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(score(x) ** 2))(values), 0)
