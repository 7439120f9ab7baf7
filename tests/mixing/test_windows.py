"""Windows and pasting compared with loops, pixels, several devices and the gradient of a dense form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from timix_jax.errors import UserError
from timix_jax.mixing import Sample
from timix_jax.mixing.partners import flip
from timix_jax.mixing.timix import TiMix
from timix_jax.mixing.windows import (
    draw_window,
    extreme_windows,
    paste_windows,
    patchify,
    unpatchify,
    window_bounds,
)

GRID = 5


def looped_extremes(scores, r, grid):
    low, high = [], []
    for row in np.asarray(scores, np.float64).reshape(-1, grid, grid):
        sums = {
            (i, j): row[i : i + r, j : j + r].sum()
            for i in range(grid - r + 1)
            for j in range(grid - r + 1)
        }
        low.append(min(sums, key=sums.__getitem__))  # both return the first of equals
        high.append(max(sums, key=sums.__getitem__))
    return np.array(low), np.array(high)


def looped_paste(tokens, others, low, high, r, grid):
    mixed = np.array(tokens)
    for k in range(len(mixed)):
        for i in range(r):
            for j in range(r):
                to = (low[k][0] + i) * grid + low[k][1] + j
                mixed[k, to] = others[k, (high[k][0] + i) * grid + high[k][1] + j]
    return mixed


@pytest.mark.parametrize(
    ("grid", "expected"), [(4, (1, 3)), (7, (2, 5)), (14, (4, 10)), (16, (5, 12)), (20, (7, 15))]
)
def test_bounds(grid, expected):
    assert window_bounds(grid) == expected


def test_bounds_at_the_edges():
    assert window_bounds(1) == (1, 1)
    assert window_bounds(2) == (1, 1)
    assert window_bounds(4, 0.01, 1.0) == (1, 4)
    assert window_bounds(100, 0.29, 0.58) == (29, 58)  # floating-point products just below
    for low, high in [(0.0, 0.5), (0.6, 0.5), (0.2, 1.1)]:
        with pytest.raises(UserError, match=f"low={low}, high={high}"):
            window_bounds(4, low, high)


def test_draw_is_uniform_and_inclusive():
    draws = jax.vmap(lambda key: draw_window(key, 7))(jax.random.split(jax.random.key(0), 4000))
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)  # 4 standard deviations


@pytest.mark.parametrize("kind", ["normal", "small integers", "constant"])
def test_extremes_equal_a_loop_for_every_size(kind):
    rng = np.random.default_rng(0)
    shape = (6, GRID * GRID)
    scores = {
        "normal": rng.normal(size=shape),
        "small integers": rng.integers(-1, 2, shape),  # exact sums, so real ties
        "constant": np.ones(shape),
    }[kind].astype(np.float32)
    find = jax.jit(lambda values, r: extreme_windows(values, r, GRID, (1, GRID)))
    for r in range(1, GRID + 1):
        low, high = find(scores, r)
        want_low, want_high = looped_extremes(scores, r, GRID)
        np.testing.assert_array_equal(low, want_low)
        np.testing.assert_array_equal(high, want_high)
        assert low.dtype == high.dtype == jnp.int32


def test_extremes_refuse_a_wrong_shape_or_side():
    with pytest.raises(ValueError, match="15 patches"):
        extreme_windows(jnp.zeros((2, 15)), 1, 4, (1, 4))
    for side in (4, np.array(4), jnp.array(4)):
        with pytest.raises(ValueError, match="window side 4"):
            extreme_windows(jnp.zeros((2, 16)), side, 4, (1, 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_paste_equals_a_loop_for_every_size(dtype):
    rng = np.random.default_rng(1)
    tokens = jnp.asarray(rng.integers(0, 200, (4, GRID * GRID, 3)), dtype)
    others = jnp.asarray(rng.integers(0, 200, (4, GRID * GRID, 3)), dtype)
    paste = jax.jit(lambda low, high, r: paste_windows(tokens, others, low, high, r, GRID))
    for r in range(1, GRID + 1):
        low, high = (rng.integers(0, GRID - r + 1, (4, 2)).astype(np.int32) for _ in range(2))
        mixed = paste(low, high, r)
        assert mixed.dtype == dtype
        expected = looped_paste(np.asarray(tokens), np.asarray(others), low, high, r, GRID)
        np.testing.assert_array_equal(np.asarray(mixed), expected)


def test_paste_gradient_is_that_of_a_dense_form():
    """The dense form multiplies by a 0/1 matrix of each token's origin."""
    rng = np.random.default_rng(2)
    tokens, others, weights = (
        jnp.asarray(rng.normal(size=(3, GRID * GRID, 2)), jnp.float32) for _ in range(3)
    )
    low, high = (jnp.asarray(rng.integers(0, 3, (3, 2)), jnp.int32) for _ in range(2))
    numbers = np.broadcast_to(np.arange(GRID * GRID)[None, :, None], (3, GRID * GRID, 1))
    source = looped_paste(numbers, numbers + GRID * GRID, low, high, 3, GRID)[..., 0]
    matrix = jnp.asarray(np.eye(2 * GRID * GRID, dtype=np.float32)[source])

    def dense(own, other):
        return jnp.sum(jnp.sin(matrix @ jnp.concatenate([own, other], axis=1)) * weights)

    def fast(own, other, r):
        return jnp.sum(jnp.sin(paste_windows(own, other, low, high, r, GRID)) * weights)

    expected = jax.grad(dense, (0, 1))(tokens, others)
    got = jax.jit(jax.grad(fast, (0, 1)))(tokens, others, 3)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_patchify_puts_patches_row_by_row_and_is_undone():
    images = np.arange(2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
    patches = patchify(jnp.asarray(images), 2)
    assert patches.shape == (2, 9, 12)
    np.testing.assert_array_equal(patches[1, 5], images[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 2), images)
    with pytest.raises(ValueError, match="6x6 pixels"):
        patchify(jnp.asarray(images), 4)


def test_pasting_tokens_equals_pasting_pixels():
    """Convolving mixed pixels equals mixing the outputs of the strided convolution, bit for bit."""
    patch, grid, batch = 4, 5, 6
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.normal(size=(batch, grid * patch, grid * patch, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(patch, patch, 3, 8)), jnp.float32)
    scores = jnp.asarray(rng.normal(size=(batch, grid * grid)), jnp.float32)
    mixer = TiMix(grid, low=0.2, high=1.0)

    @jax.jit
    def embed(pixels):
        out = jax.lax.conv_general_dilated(
            pixels, kernel, (patch, patch), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out.reshape(batch, grid * grid, -1) + 0.5

    for r in range(1, grid + 1):
        of_pixels = mixer.mix(patchify(images, patch), scores, flip(batch), r)
        of_tokens = mixer.mix(embed(images), scores, flip(batch), r)
        np.testing.assert_array_equal(
            embed(unpatchify(of_pixels.image, patch)), np.asarray(of_tokens.image)
        )


def test_a_new_size_does_not_retrace():
    mixer = TiMix(grid=8)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, tokens, scores):
        return mixer(key, Sample(tokens, scores=scores))

    chex.clear_trace_counter()
    tokens, scores = jnp.ones((4, 64, 2)), jax.random.normal(jax.random.key(9), (4, 64))
    sizes = {int(step(jax.random.key(seed), tokens, scores).window) for seed in range(40)}
    assert sizes == {2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("partner", "lambda_by"),
    [
        ("derangement", "mass"),
        pytest.param("flip", "area", marks=pytest.mark.slow),
        pytest.param("flip", "mass", marks=pytest.mark.slow),
        pytest.param("derangement", "area", marks=pytest.mark.slow),
    ],
)
def test_same_numbers_on_1_2_and_8_devices(partner, lambda_by):
    mixer = TiMix(grid=6, partner=partner, lambda_by=lambda_by)
    tokens = jax.random.normal(jax.random.key(0), (16, 36, 5))
    scores = jax.random.normal(jax.random.key(1), (16, 36))

    def run(devices):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        rows = NamedSharding(mesh, PartitionSpec("data"))

        def step(key, own, relevance):
            mixed = mixer(key, Sample(own, scores=relevance))
            return mixed._replace(image=jax.lax.with_sharding_constraint(mixed.image, rows))

        sharded = jax.device_put((tokens, scores), rows)
        return jax.device_get(jax.jit(step)(jax.random.key(7), *sharded))

    assert len(jax.devices()) == 8
    reference = run(1)
    for devices in (2, 8):
        got = run(devices)
        for name in ("image", "partner", "low", "high", "window"):
            np.testing.assert_array_equal(getattr(got, name), getattr(reference, name))
        np.testing.assert_allclose(got.lam, reference.lam, rtol=1e-6)
