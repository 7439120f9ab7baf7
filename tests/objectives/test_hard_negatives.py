"""The draw of hard negatives: whom it never draws, and how often it draws the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from timix_jax.errors import UserError
from timix_jax.objectives.hard_negatives import check_candidates, draw_negatives, same_pairs
from timix_jax.parallel.mesh import BATCH_AXES, make_mesh

ROWS, DRAWS = 6, 10_000
TOKENS = np.array([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 7, 2], [1, 8, 2], [1, 9, 2]], np.int32)
IMAGES = np.array([0, 1, 2, 3, 3, 5], np.int32)
# Rows 0 and 2 have equal captions, rows 3 and 4 show one image.
SAME = np.eye(ROWS, dtype=bool)
SAME[[0, 2, 3, 4], [2, 0, 4, 3]] = True


@jax.jit
def many(logits, barred):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return jax.vmap(lambda key: draw_negatives(key, logits, barred))(keys)


def test_rows_of_one_image_or_one_caption_are_the_same():
    np.testing.assert_array_equal(same_pairs(TOKENS, IMAGES), SAME)
    without_ids = SAME.copy()
    without_ids[[3, 4], [4, 3]] = False
    np.testing.assert_array_equal(same_pairs(TOKENS, None), without_ids)
    by_part = np.asarray(same_pairs(TOKENS, IMAGES, shards=2))
    other_part = np.arange(ROWS)[:, None] // 3 != np.arange(ROWS) // 3
    np.testing.assert_array_equal(by_part, SAME | other_part)


def test_draws_follow_the_softmax_of_the_allowed():
    logits = np.random.default_rng(0).standard_normal((ROWS, ROWS)).astype(np.float32)
    index, found = many(logits, SAME)
    assert np.asarray(found).all()
    for row in range(ROWS):
        counts = np.bincount(np.asarray(index)[:, row], minlength=ROWS)
        assert not counts[SAME[row]].any()
        weights = np.exp(np.float64(logits[row, ~SAME[row]]))
        expected = DRAWS * weights / weights.sum()
        assert stats.chisquare(counts[~SAME[row]], expected).pvalue > 1e-4
    pairs = np.asarray(index)
    # Rows draw independently of each other.
    together = np.mean((pairs[:, 1] == 0) & (pairs[:, 5] == 0))
    assert together == pytest.approx(
        np.mean(pairs[:, 1] == 0) * np.mean(pairs[:, 5] == 0), abs=0.02
    )


@pytest.mark.parametrize("tau", [0.07, 0.001])
def test_the_sharpest_similarities_give_neither_nan_nor_the_row_itself(tau):
    """A softmax with its diagonal removed sums to 0 here, and a draw from it fails."""
    logits = jnp.asarray(np.where(np.eye(4), 80, -80) / tau, jnp.float32)
    index, found = many(logits, jnp.eye(4, dtype=bool))
    assert np.asarray(found).all()
    assert (np.asarray(index) != np.arange(4)).all()
    assert len(np.unique(np.asarray(index)[:, 0])) == 3


def test_two_rows_are_each_other_s_negatives():
    index, found = draw_negatives(jax.random.key(0), jnp.zeros((2, 2)), jnp.eye(2, dtype=bool))
    assert index.tolist() == [1, 0]
    assert found.all()


def test_a_row_without_candidates_is_marked():
    barred = jnp.asarray(SAME).at[1].set(True)
    _, found = draw_negatives(jax.random.key(0), jnp.zeros((ROWS, ROWS)), barred)
    assert found.tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize("devices", [2, 8])
def test_any_number_of_devices_draws_the_same(devices):
    logits = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    barred = np.eye(16, dtype=bool)
    want, _ = draw_negatives(jax.random.key(3), logits, barred)
    mesh = make_mesh(jax.devices()[:devices])
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    placed = jax.device_put((logits, barred), rows)
    got, _ = jax.jit(draw_negatives)(jax.random.key(3), *placed)
    np.testing.assert_array_equal(got, want)


def test_unknown_candidates():
    with pytest.raises(
        UserError, match=r"itm.candidates='queue' is unknown; use 'global' or 'device'"
    ):
        check_candidates("queue")
