"""Ranks against a brute-force loop: several captions, ties, NaN, padding, several devices."""

import itertools

import jax
import numpy as np
import pytest

from timix_jax.evaluators.ranks import MISS, retrieval_ranks


def make_mesh(devices: int, fsdp: int = 1) -> jax.sharding.Mesh:
    grid = np.array(jax.devices()[:devices]).reshape(devices // fsdp, fsdp)
    return jax.sharding.Mesh(grid, ("data", "fsdp"))


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def brute_force(images, texts, image_index):
    """Loops over the whole similarity matrix; ties and NaN go against the positive."""
    s = images.astype(np.float64) @ texts.T.astype(np.float64)
    i2t, t2i = [], []
    for i in range(len(images)):
        ranks = [MISS]
        for m in np.flatnonzero(image_index == i):
            if np.isnan(s[i, m]):
                continue
            ahead = 0
            for other in range(len(texts)):
                if image_index[other] != i and not s[i, other] < s[i, m]:
                    ahead += 1
            ranks.append(ahead)
        i2t.append(min(ranks))
    for m, i in enumerate(image_index):
        if np.isnan(s[i, m]):
            t2i.append(MISS)
            continue
        t2i.append(sum(j != i and not s[j, m] < s[i, m] for j in range(len(images))))
    return np.array(i2t), np.array(t2i)


def many_captions(rng: np.random.Generator, images: int, dim: int = 8):
    """Images, captions near to their image (1 to 6 each, in shuffled order), and whose they are."""
    x = unit(rng, images, dim)
    index = np.repeat(np.arange(images), rng.integers(1, 7, images))
    rng.shuffle(index)
    t = x[index] + 0.6 * unit(rng, len(index), dim)
    return x, (t / np.linalg.norm(t, axis=1, keepdims=True)).astype(np.float32), index


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_ranks_match_brute_force(block):
    x, t, index = many_captions(np.random.default_rng(0), 41)
    got = retrieval_ranks(x, t, index, make_mesh(1), block=block)
    i2t, t2i = brute_force(x, t, index)
    np.testing.assert_array_equal(got.i2t, i2t)
    np.testing.assert_array_equal(got.t2i, t2i)
    assert 0 < np.mean(i2t == 0) < 1  # the case tells good from bad
    assert 0 < np.mean(t2i == 0) < 1


@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (8, 1), (8, 2)])
def test_devices_do_not_matter(devices, fsdp):
    x, t, index = many_captions(np.random.default_rng(1), 29)
    one = retrieval_ranks(x, t, index, make_mesh(1), block=16)
    many = retrieval_ranks(x, t, index, make_mesh(devices, fsdp), block=16)
    np.testing.assert_array_equal(one.i2t, many.i2t)
    np.testing.assert_array_equal(one.t2i, many.t2i)


def test_ties_are_lost():
    # All similarities are exact: signed unit vectors, several of them equal.
    rng = np.random.default_rng(2)
    axes = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    x = axes[rng.integers(0, 8, 20)]
    index = np.repeat(np.arange(20), 3)
    t = np.where(rng.random((60, 1)) < 0.5, x[index], axes[rng.integers(0, 8, 60)])
    got = retrieval_ranks(x, t, index, make_mesh(1), block=8)
    i2t, t2i = brute_force(x, t, index)
    np.testing.assert_array_equal(got.i2t, i2t)
    np.testing.assert_array_equal(got.t2i, t2i)


@pytest.mark.parametrize("seed", range(6))
def test_collapsed_embeddings_are_last(seed):
    # Equal up to the rounding of a matrix product, which falls in our favour for half of the seeds.
    v = unit(np.random.default_rng(seed), 1, 257)
    x, t = np.repeat(v, 37, 0), np.repeat(v, 74, 0)
    got = retrieval_ranks(x, t, np.repeat(np.arange(37), 2), make_mesh(1), block=19)
    np.testing.assert_array_equal(got.i2t, 72)
    np.testing.assert_array_equal(got.t2i, 36)


def test_several_right_captions_do_not_stand_before_each_other():
    x = np.eye(3, dtype=np.float32)
    t = np.repeat(x, 12, 0)
    got = retrieval_ranks(x, t, np.repeat(np.arange(3), 12), make_mesh(1))
    np.testing.assert_array_equal(got.i2t, 0)
    np.testing.assert_array_equal(got.t2i, 0)


def test_nan_is_a_miss_and_stands_before_others():
    x, t, index = many_captions(np.random.default_rng(4), 17)
    x[3] = np.nan
    t[5] = np.nan
    got = retrieval_ranks(x, t, index, make_mesh(1), block=8)
    i2t, t2i = brute_force(x, t, index)
    np.testing.assert_array_equal(got.i2t, i2t)
    np.testing.assert_array_equal(got.t2i, t2i)
    assert got.i2t[3] == MISS
    assert got.t2i[5] == MISS
    assert np.all(got.t2i >= 1)  # the NaN image stands before every right one


def test_all_nan_is_no_recall():
    x = np.full((4, 3), np.nan, np.float32)
    got = retrieval_ranks(x, x, np.arange(4), make_mesh(1))
    np.testing.assert_array_equal(got.i2t, MISS)
    np.testing.assert_array_equal(got.t2i, MISS)


def test_padding_is_never_counted():
    # Every right similarity is negative: a counted zero row of the padding would stand before it.
    x = np.eye(5, dtype=np.float32)
    t = -x
    sizes = itertools.product((1, 2, 8), (1, 3, 4, 16))
    for devices, block in sizes:
        got = retrieval_ranks(x, t, np.arange(5), make_mesh(devices), block=block)
        np.testing.assert_array_equal(got.i2t, 4)
        np.testing.assert_array_equal(got.t2i, 4)
    got = retrieval_ranks(x[:1], t[:1], np.zeros(1, int), make_mesh(8), block=16)
    assert (got.i2t[0], got.t2i[0]) == (0, 0)


def test_image_without_caption_is_a_miss_and_still_a_candidate():
    x = np.array([[1.0, 0.0], [0.8, 0.6]], np.float32)
    t = np.array([[0.6, 0.8]], np.float32)  # belongs to image 0, nearer to image 1
    got = retrieval_ranks(x, t, np.zeros(1, int), make_mesh(1))
    np.testing.assert_array_equal(got.i2t, [0, MISS])
    np.testing.assert_array_equal(got.t2i, [1])
