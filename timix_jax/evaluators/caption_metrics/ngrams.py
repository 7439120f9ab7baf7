"""Counts of n-grams."""

from collections import Counter
from collections.abc import Sequence

ORDERS = (1, 2, 3, 4)

Words = Sequence[str]
NgramCounts = list[Counter[tuple[str, ...]]]


def count_ngrams(words: Words) -> NgramCounts:
    """Return the counts of the n-grams of each order 1 to 4."""
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in ORDERS]
