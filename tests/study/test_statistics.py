"""Intervals, corrections and multipliers against closed forms and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from timix_jax.study.statistics import data_multiplier, holm, paired_difference, summary


def test_summary():
    assert summary([0.2, 0.4, 0.6]) == pytest.approx((0.4, 0.2 / math.sqrt(3), 3))
    assert math.isnan(summary([0.5]).error)


def test_paired_difference():
    rng = np.random.default_rng(0)
    theirs = rng.normal(0.3, 0.1, (8, 5))
    ours = theirs + 0.02 + rng.normal(0, 0.004, (8, 5))
    gap = paired_difference(ours, theirs)
    assert gap.mean == pytest.approx((ours - theirs).mean())
    # Pairing removes the spread between seeds, which is larger than the difference.
    assert 0.01 < gap.low < gap.mean < gap.high < 0.03
    means = (ours.mean(axis=1), theirs.mean(axis=1))
    assert gap.p == pytest.approx(stats.ttest_rel(*means).pvalue)
    assert paired_difference(theirs, ours).high < 0


def test_interval_covers_seeds_and_galleries():
    """With a gap that depends on the gallery only, seeds alone would give an interval of no width."""
    theirs = np.zeros((6, 4))
    ours = theirs + np.array([0.0, 0.1, 0.2, 0.3])
    gap = paired_difference(ours, theirs)
    assert gap.low < 0.08
    assert gap.high > 0.22
    # The mean of four draws: a deviation of 0.112 / 2.
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * 0.1118 / 2, rel=0.1)


def test_one_seed_has_no_p_value():
    assert math.isnan(paired_difference(np.ones((1, 3)), np.zeros((1, 3))).p)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    corrected = holm([0.01, math.nan, 0.02])
    assert corrected[0] == pytest.approx(0.03)
    assert math.isnan(corrected[1])


def test_multiplier_of_a_logarithmic_curve():
    """Quality that grows by 0.1 per doubling: 0.05 more is worth √2 times the data."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.001, (6, 4))
    baseline = {n: 0.1 * math.log2(n) + noise for n in (1000, 2000, 4000, 8000)}
    ours = 0.1 * math.log2(2000) + 0.05 + noise
    m = data_multiplier(2000, ours, baseline)
    assert m.beyond == ""
    assert m.value == pytest.approx(math.sqrt(2), rel=1e-6)
    # The same draws for both: noise that both share cancels.
    assert (m.low, m.high) == pytest.approx((math.sqrt(2), math.sqrt(2)), rel=1e-3)


@pytest.mark.parametrize(("quality", "end"), [(9.0, 4.0), (0.0, 1.0)])
def test_multiplier_beyond_the_curve(quality, end):
    baseline = {1000: np.full((3, 2), 1.0), 4000: np.full((3, 2), 2.0)}
    m = data_multiplier(1000, np.full((3, 2), quality), baseline)
    assert m.beyond == ("≥" if quality > 2 else "≤")
    assert m.value == pytest.approx(end)


def test_a_curve_that_dips_counts_from_its_first_rise():
    baseline = {1000: np.full((2, 2), 1.0), 2000: np.full((2, 2), 0.9), 4000: np.full((2, 2), 2.0)}
    m = data_multiplier(1000, np.full((2, 2), 1.5), baseline)
    assert m.value == pytest.approx(2.0)  # halfway from (1000, 1.0) to (4000, 2.0) in log N
