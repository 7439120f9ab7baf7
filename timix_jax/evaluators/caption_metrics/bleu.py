"""BLEU (Papineni et al., 2002) of a corpus, with the constants of COCO's evaluation."""

import math
from collections.abc import Sequence

from timix_jax.evaluators.caption_metrics.ngrams import ORDERS, Words, count_ngrams

# COCO's evaluation adds these to numerators and denominators, so that nothing is divided by 0.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[float, float, float, float]:
    """Return BLEU-1 to BLEU-4 over all images.

    An n-gram of a candidate counts at most as often as in the reference that has it most often. The brevity penalty
    compares the candidates' words with those of the references closest in length, the shorter one of two.

    Args:
      candidates: the words of one caption per image.
      references: the words of each image's references.
    """
    correct, total = [0] * len(ORDERS), [0] * len(ORDERS)
    length = wanted = 0
    for candidate, several in zip(candidates, references, strict=True):
        counts = [count_ngrams(reference) for reference in several]
        for n, own in enumerate(count_ngrams(candidate)):
            most = counts[0][n].copy()
            for other in counts[1:]:
                most |= other[n]
            correct[n] += (own & most).total()
            total[n] += own.total()
        length += len(candidate)
        wanted += min((abs(len(r) - len(candidate)), len(r)) for r in several)[1]
    ratio = (length + _TINY) / (wanted + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    precision, scores = 1.0, []
    for n in ORDERS:
        precision *= (correct[n - 1] + _TINY) / (total[n - 1] + _SMALL)
        scores.append(precision ** (1 / n) * brevity)
    return scores[0], scores[1], scores[2], scores[3]
