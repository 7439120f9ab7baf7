"""Paired comparisons over seeds and galleries, and data multipliers (protocol: docs/results.md)."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_DRAWS = 10_000
_LEVEL = 95  # per cent


class Summary(NamedTuple):
    """Mean and standard error over seeds; the error is NaN for one seed."""

    mean: float
    error: float
    seeds: int


class Difference(NamedTuple):
    """A paired difference.

    Attributes:
      mean: mean over seeds and galleries.
      low, high: 95% interval of a bootstrap over seeds and galleries.
      p: two-sided p-value of a paired t-test over seeds; NaN for one seed.
      seeds: number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


def summary(values: Sequence[float]) -> Summary:
    """Return mean and standard error, with ddof = 1, of one value per seed."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return Summary(float(array.mean()), float(error), len(array))


def paired_difference(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> Difference:
    """Compare two methods on the same seeds and galleries.

    The bootstrap draws seeds and galleries with replacement, independently: an interval over seeds alone would describe
    these galleries only. p ignores galleries.

    Args:
      ours, theirs: (S, G), a value per seed and gallery.
      seed: of the bootstrap's draws.
    """
    from scipy import stats  # half a second, kept out of the program's start

    gap = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    if gap.ndim != 2:
        raise ValueError(f"values must be (seeds, galleries), got {gap.shape}")
    seeds = len(gap)
    by_seed = gap.mean(axis=1)
    low, high = interval(_resampled_means(gap, np.random.default_rng(seed)))
    p = math.nan
    if seeds > 1:
        with np.errstate(all="ignore"):  # equal pairs have no deviation
            p = float(stats.ttest_1samp(by_seed, 0.0).pvalue)
    return Difference(float(gap.mean()), low, high, p, seeds)


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    seeds, galleries = values.shape
    rows = rng.integers(0, seeds, (_DRAWS, seeds))
    columns = rng.integers(0, galleries, (_DRAWS, galleries))
    return values[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95% percentile interval of bootstrap draws."""
    tail = (100 - _LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of comparisons (Holm's step-down method), in the given order."""
    order = np.argsort(p_values)
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        p = p_values[int(index)]
        if math.isnan(p):
            continue
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        corrected[int(index)] = largest
    return corrected


class Multiplier(NamedTuple):
    """How much data the baseline needs for the same quality, as a multiple of the method's amount.

    Attributes:
      value: m = N_baseline / N.
      low, high: 95% interval of a bootstrap over seeds and galleries.
      beyond: "≥" or "≤" if the quality lies above or below the baseline's curve, whose end `value` then is; else "".
    """

    value: float
    low: float
    high: float
    beyond: str


def data_multiplier(
    amount: float, ours: np.ndarray, baseline: Mapping[float, np.ndarray], seed: int = 0
) -> Multiplier:
    """Find the amount of data at which the baseline is as good.

    The baseline's curve is linear between its amounts in log N, and made monotone from below: more data never counts as
    worse. Each bootstrap draw takes the same seeds and galleries for the method and for the whole curve.

    Args:
      amount: N of the method.
      ours: (S, G) its qualities.
      baseline: N → (S, G) qualities, at least two amounts.
      seed: of the bootstrap's draws.
    """
    amounts = np.array(sorted(baseline), np.float64)
    if len(amounts) < 2:
        raise ValueError("a curve needs two amounts or more")
    curve = np.stack([np.asarray(baseline[n], np.float64) for n in amounts])  # (A, S, G)
    value, beyond = _equivalent(amounts, curve.mean(axis=(1, 2)), float(np.mean(ours)))
    seeds, galleries = curve.shape[1:]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(_DRAWS // 5):
        pick = np.ix_(rng.integers(0, seeds, (seeds,)), rng.integers(0, galleries, (galleries,)))
        qualities = np.array([part[pick].mean() for part in curve])
        draws.append(_equivalent(amounts, qualities, float(np.asarray(ours)[pick].mean()))[0])
    low, high = interval(np.array(draws) / amount)
    return Multiplier(value / amount, low, high, beyond)


def _equivalent(amounts: np.ndarray, qualities: np.ndarray, quality: float) -> tuple[float, str]:
    """Return the amount that gives this quality, and `Multiplier.beyond`."""
    rising = np.maximum.accumulate(qualities)
    beyond = "≥" if quality > rising[-1] else "≤" if quality < rising[0] else ""
    # Of several amounts of one quality the smallest counts.
    keep = np.concatenate([[True], np.diff(rising) > 0])
    return float(np.exp(np.interp(quality, rising[keep], np.log(amounts[keep])))), beyond
