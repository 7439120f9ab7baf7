"""AUC against all pairs, the pointing game against a loop."""

import numpy as np
import pytest

from timix_jax.evaluators.localisation import pointing, roc_auc


def pairwise_auc(scores, labels):
    wins, pairs = 0.0, 0
    for p in scores[labels]:
        for n in scores[~labels]:
            wins += 1.0 if p > n else 0.5 if p == n else 0.0
            pairs += 1
    return wins / pairs


def looped_pointing(scores, labels):
    best = [i for i, s in enumerate(scores) if s == max(scores)]
    return sum(labels[i] for i in best) / len(best)


@pytest.mark.parametrize("levels", [2, 4, 1000])  # few levels: many ties
def test_match_the_definitions(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (40, 25)).astype(np.float32)
    labels = rng.random((40, 25)) < rng.uniform(0.1, 0.9, (40, 1))
    labels[:, 0], labels[:, 1] = True, False
    np.testing.assert_allclose(
        roc_auc(scores, labels), [pairwise_auc(*x) for x in zip(scores, labels, strict=True)]
    )
    np.testing.assert_allclose(
        pointing(scores, labels), [looped_pointing(*x) for x in zip(scores, labels, strict=True)]
    )


def test_known_values():
    labels = np.array([[True, False, False, False]] * 4)
    scores = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 1, 1, 1], [np.nan, 1, 2, 3]])
    np.testing.assert_allclose(roc_auc(scores, labels), [1, 0, 0.5, 0])
    np.testing.assert_allclose(pointing(scores, labels), [1, 0, 0.25, 0])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 5\)"):
        roc_auc(np.zeros((2, 4)), np.zeros((2, 5), bool))
