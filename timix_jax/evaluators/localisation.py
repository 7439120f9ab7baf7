"""Metrics of how well patch scores find a box: exact ROC AUC and the pointing game, per region."""

from __future__ import annotations

import numpy as np


def roc_auc(scores: np.ndarray, labels: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Return the probability that a positive patch scores above a negative one, ties counting ½ (Mann-Whitney U).

    Args:
      scores: float (K, N); a row with a NaN has AUC 0.
      labels: bool (K, N), at least one positive and one negative per row.
      among: bool (K, N), the patches that count; None for all.

    Returns:
      float64 (K,).
    """
    from scipy import stats  # half a second, kept out of the program's start

    _check(scores, labels)
    counted = labels.shape[1]
    if among is not None:
        # Above all that count, the others change no rank of those.
        scores, labels = np.where(among, scores, np.inf), labels & among
        counted = among.sum(1)
    ranks = stats.rankdata(scores, axis=1)  # average ranks of ties; NaN in a row gives NaN
    positives = labels.sum(1)
    wins = np.where(labels, ranks, 0.0).sum(1) - positives * (positives + 1) / 2
    return np.nan_to_num(wins / (positives * (counted - positives)), nan=0.0)


def pointing(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1 where the highest patch lies in the box, else 0 (pointing game, Zhang et al. 2016).

    Where several patches tie for the highest, the value is the share of them in the box, the mean of a random
    choice: a constant score is at chance level, as with the AUC.

    Args:
      scores: float (K, N); a row with a NaN scores 0.
      labels: bool (K, N).

    Returns:
      float64 (K,), fractions.
    """
    _check(scores, labels)
    top = scores == scores.max(axis=1, keepdims=True)
    hits = np.sum(top & labels, axis=1) / np.maximum(np.sum(top, axis=1), 1)
    return np.where(np.isnan(scores).any(1), 0.0, hits)


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            f"scores and labels must both be (K, N); got {scores.shape} and {labels.shape}"
        )
