"""Pairings: who is mixed with whom."""

import jax
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing.partners import check_pairing, derangement, flip, take_partners


def test_flip_is_an_involution_with_a_lonely_middle():
    assert flip(4).tolist() == [3, 2, 1, 0]
    assert flip(5).tolist() == [4, 3, 2, 1, 0]
    np.testing.assert_array_equal(flip(6)[flip(6)], np.arange(6))


@pytest.mark.parametrize("batch", [2, 3, 4, 7, 16])
def test_derangement_is_one_cycle_through_all(batch):
    seen = set()
    for seed in range(5):
        partner = np.asarray(derangement(jax.random.key(seed), batch))
        assert partner.dtype == np.int32
        row, visited = 0, []
        for _ in range(batch):
            visited.append(row)
            row = int(partner[row])
        assert row == 0
        assert sorted(visited) == list(range(batch))
        seen.add(tuple(partner))
    if batch >= 7:
        assert len(seen) == 5  # random


def test_derangement_of_one_is_itself():
    assert derangement(jax.random.key(0), 1).tolist() == [0]


@pytest.mark.parametrize("pairing", ["flip", "derangement"])
def test_take_partners_is_indexing(pairing):
    values = jax.random.normal(jax.random.key(1), (5, 3))
    partner = flip(5) if pairing == "flip" else derangement(jax.random.key(2), 5)
    np.testing.assert_array_equal(take_partners(values, partner, pairing), values[partner])


def test_unknown_pairing():
    with pytest.raises(UserError, match="'roll' is unknown"):
        check_pairing("roll")
