"""Pairing rules, and the exchange of values between partners."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.mixing.dissimilar import captions_with
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
@pytest.mark.parametrize("rule", ["flip", "derangement", "dissimilar"])
def test_values_are_taken_from_partners_and_given_to_them(rule, shards):
    values = jax.random.normal(jax.random.key(1), (15, 3))
    partners = Partners(rule, shards)
    tokens = jax.random.randint(jax.random.key(3), (15, 4), 0, 9)
    partner = partners.draw(jax.random.key(2), 15, tokens)
    assert partner.dtype == np.int32
    np.testing.assert_array_equal(partners.take(values, partner), values[partner])
    given = np.zeros_like(values)
    for row, other in enumerate(partner):
        given[other] += values[row]
    np.testing.assert_array_equal(partners.give(values, partner), given)


def test_giving_sums_where_rows_share_a_partner():
    given = Partners("derangement").give(np.arange(1.0, 4.0), np.array([1, 1, 2]))
    assert given.tolist() == [0, 3, 3]


def caption_words(rng, rows, words=5):
    """Return captions of random words between [CLS] and [SEP], padded; 20 different words."""
    tokens = np.zeros((rows, words + 3), np.int32)
    tokens[:, 0] = 1
    tokens[:, 1 : words + 1] = rng.integers(4, 24, (rows, words))
    tokens[:, words + 1] = 2
    return tokens


@pytest.mark.parametrize("shards", [1, 4])
def test_dissimilar_partners_share_less_than_random_ones(shards):
    tokens = caption_words(np.random.default_rng(0), 64)
    holders = collections.Counter(word for row in tokens for word in set(row.tolist()))

    def alike(row, other):
        return sum(1 / holders[w] for w in row.tolist() if w in set(other.tolist()))

    key = jax.random.key(5)
    got = np.asarray(
        jax.jit(Partners("dissimilar", shards).draw, static_argnums=1)(key, 64, tokens)
    )
    candidates = [
        np.asarray(Partners("derangement", shards).draw(k, 64)) for k in jax.random.split(key, 8)
    ]
    for row, partner in enumerate(got):
        assert partner != row
        assert partner // (64 // shards) == row // (64 // shards)
        options = [alike(tokens[row], tokens[c[row]]) for c in candidates]
        assert alike(tokens[row], tokens[partner]) == pytest.approx(min(options))
    chosen = np.mean([alike(tokens[row], tokens[p]) for row, p in enumerate(got)])
    drawn = np.mean([alike(tokens[row], tokens[p]) for c in candidates for row, p in enumerate(c)])
    assert chosen < 0.6 * drawn
    with pytest.raises(UserError, match="'dissimilar' compares captions"):
        Partners("dissimilar").draw(key, 64)


def test_words_are_counted_once_per_caption():
    tokens = np.array([[1, 5, 5, 2], [1, 6, 2, 0], [1, 5, 2, 0]], np.int32)
    assert captions_with(tokens).tolist() == [[3, 2, 2, 3], [3, 1, 3, 2], [3, 2, 3, 2]]


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
