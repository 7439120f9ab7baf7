"""Pairing rules, and the exchange of values between partners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing.partners import Partners, derangement, flip


def test_flip_is_an_involution_whose_odd_middle_is_its_own_partner():
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


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("rule", ["flip", "derangement"])
def test_values_are_taken_from_partners_and_given_to_them(rule, shards):
    values = jax.random.normal(jax.random.key(1), (15, 3))
    partners = Partners(rule, shards)
    partner = partners.draw(jax.random.key(2), 15)
    assert partner.dtype == np.int32
    np.testing.assert_array_equal(partners.take(values, partner), values[partner])
    given = np.zeros_like(values)
    for row, other in enumerate(partner):
        given[other] += values[row]
    np.testing.assert_array_equal(partners.give(values, partner), given)


def test_giving_sums_where_rows_share_a_partner():
    given = Partners("derangement").give(np.arange(1.0, 4.0), np.array([1, 1, 2]))
    assert given.tolist() == [0, 3, 3]


@pytest.mark.parametrize("rule", ["flip", "derangement"])
def test_within_shards_no_row_leaves_its_own(rule):
    partner = np.asarray(Partners(rule, 3).draw(jax.random.key(0), 12)).reshape(3, 4)
    for shard, rows in enumerate(partner):
        assert sorted(rows) == list(range(4 * shard, 4 * shard + 4))
        if rule == "flip":
            assert rows.tolist() == list(range(4 * shard + 3, 4 * shard - 1, -1))
        else:
            assert not np.any(rows == np.arange(4 * shard, 4 * shard + 4))
    if rule == "derangement":
        assert len({tuple(rows - rows.min()) for rows in partner}) > 1  # not one for all


def test_unknown_rule_and_shards_that_do_not_fit():
    with pytest.raises(UserError, match="'roll' is unknown"):
        Partners("roll")
    with pytest.raises(UserError, match="shards=0"):
        Partners("flip", 0)
    with pytest.raises(UserError, match=r"10 mixed rows don't divide over 4 shards"):
        Partners("flip", 4).draw(jax.random.key(0), 10)


def test_concrete_partners_that_the_flip_would_not_follow_are_refused():
    flip_rule = Partners("flip")
    flip_rule.check(flip(4))
    Partners("flip", 2).check(jnp.array([1, 0, 3, 2]))
    Partners("derangement").check(jnp.array([1, 0, 3, 2]))
    with pytest.raises(UserError, match=r"\[1, 0, 3, 2\].*partner='flip'.*'derangement'"):
        flip_rule.check(jnp.array([1, 0, 3, 2]))
