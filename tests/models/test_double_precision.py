"""In JAX's x64 mode, results for float64 inputs are accurate to 1e-12, not to float32's 1e-7."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.mixing import RandomWindow, Sample, TiMix, scores
from timix_jax.models.patch_predictor import PatchPredictor
from timix_jax.models.pixels import normalise_pixels
from timix_jax.models.vit import cls_attention
from timix_jax.objectives.patch_labels import patch_labels
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("lambda_by", ["area", "mass"])
def test_lambda_has_the_precision_of_the_scores(dtype, lambda_by):
    """The scores determine the dtype; the images are bytes."""
    grid, r, batch = 7, 3, 4
    inputs = jnp.asarray(RNG.integers(0, 255, (batch, grid * grid, 3)).astype(dtype))
    relevance = RNG.normal(size=(batch, grid * grid))
    mixer = TiMix(grid, lambda_by=lambda_by)
    partner = np.arange(batch)[::-1].astype(np.int32)
    mixed = mixer.mix(inputs, jnp.asarray(relevance), jnp.asarray(partner), r)
    assert mixed.image.dtype == dtype
    assert mixed.lam.dtype == jnp.float64
    if lambda_by == "area":
        expected = np.full(batch, 1 - 9 / 49)
    else:
        mass = np.exp(relevance) / np.exp(relevance).sum(1, keepdims=True)
        square = mass.reshape(batch, grid, grid)
        inside = lambda k, at: square[k, at[0] : at[0] + r, at[1] : at[1] + r].sum()
        kept = np.array([1 - inside(k, mixed.low[k]) for k in range(batch)])
        pasted = np.array([inside(k, mixed.high[k]) for k in range(batch)])[partner]
        expected = kept / (kept + pasted)
    np.testing.assert_allclose(mixed.lam, expected, rtol=1e-12)


def test_lambda_by_bytes_without_scores():
    inputs = jnp.asarray(RNG.integers(0, 255, (4, 49, 3)).astype(np.uint8))
    mixed = RandomWindow(7)(jax.random.key(0), Sample(inputs))
    np.testing.assert_allclose(mixed.lam, 1 - int(mixed.window) ** 2 / 49, rtol=1e-14)


def test_attention_scores():
    heads, width, batch, tokens = 2, 8, 3, 10
    x = RNG.normal(size=(batch, tokens, width))
    kernel, bias = RNG.normal(size=(width, 3, heads, 4)), RNG.normal(size=(3, heads, 4))
    scale, shift = RNG.normal(size=width), RNG.normal(size=width)
    params = {
        "norm1": {"scale": scale, "bias": shift},
        "attention": {"qkv": {"kernel": kernel, "bias": bias}},
    }
    got = cls_attention(jax.tree.map(jnp.asarray, params), jnp.asarray(x), heads=heads)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normed = normed * scale + shift
    query = np.einsum("bc,chd->bhd", normed[:, 0], kernel[:, 0]) + bias[0]
    key = np.einsum("btc,chd->bthd", normed, kernel[:, 1]) + bias[1]
    logits = np.einsum("bhd,bthd->bht", query, key) / np.sqrt(width // heads)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(got, weights.mean(1)[:, 1:], rtol=1e-12)


def test_pixels_and_oracle_scores():
    images = RNG.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        normalise_pixels(jnp.asarray(images)), images / 127.5 - 1, atol=1e-15
    )
    box = np.array([[[0.1, 0.2, 0.1 + 1 / 3, 0.2 + 1 / 7]]])
    got = scores.from_boxes(jnp.asarray(box), jnp.ones((1, 1), bool), 3)
    edges = np.arange(3)
    share = lambda low, high: np.clip(
        np.minimum(3 * high, edges + 1) - np.maximum(3 * low, edges), 0, 1
    )
    x0, y0, x1, y1 = box[0, 0]
    np.testing.assert_allclose(
        got[0].reshape(3, 3), np.outer(share(y0, y1), share(x0, x1)), rtol=1e-12, atol=1e-15
    )


def test_a_box_a_thousandth_of_a_pixel_over_the_border_counts():
    box = np.array([0.0, 0.0, 16.001 / 256, 16.001 / 256])
    assert patch_labels(jnp.asarray(box), 16).sum() == 4
    assert patch_labels(jnp.asarray(np.array([0.0, 0.0, 3 * (1 / 48), 1 / 16])), 16).sum() == 1


@pytest.mark.slow
def test_predictor_of_tokens_whose_mean_is_large():
    h, c = RNG.normal(size=(2, 9, 16)) + 1e4, RNG.normal(size=(2, 8))
    model = PatchPredictor(dtype=jnp.float64)
    params = model.init(jax.random.key(0), jnp.asarray(h), jnp.asarray(c))
    centred = h - h.mean(-1, keepdims=True)  # the norm's own result does not depend on the mean
    np.testing.assert_allclose(
        model.apply(params, jnp.asarray(h), jnp.asarray(c)),
        model.apply(params, jnp.asarray(centred), jnp.asarray(c)),
        rtol=1e-9,
    )


def test_gradients_of_gathered_parameters_keep_their_type():
    mesh = make_mesh(fsdp=8)
    layout = Layout(mesh, small=1)
    kernel = jnp.asarray(RNG.normal(size=(64, 64)))
    inputs = jnp.asarray(RNG.normal(size=(8, 64)))

    def loss(params, gather):
        whole = gather(params)["kernel"]
        return jnp.sum(jnp.tanh(inputs @ whole))

    gathered = jax.jit(jax.grad(lambda p: loss(p, lambda p: layout.gather(p, "image/blocks"))))
    plain = jax.grad(lambda p: loss(p, lambda p: p))
    found, expected = gathered({"kernel": kernel}), plain({"kernel": kernel})
    assert found["kernel"].dtype == jnp.float64
    np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-9, atol=1e-14)
