"""CIDEr-D (Vedantam et al., 2015) as COCO's evaluation computes it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from timix_jax.evaluators.caption_metrics.ngrams import ORDERS, NgramCounts, Words, count_ngrams

_SIGMA = 6.0  # of the Gaussian penalty on the difference in length
_SCALE = 10.0

Ngram = tuple[str, ...]


class _Weighted:
    """TF-IDF weights of a text's n-grams, their norms by order, and its length in bigrams."""

    def __init__(self, counts: NgramCounts, idf: Mapping[Ngram, float], unseen: float) -> None:
        self.weights = [
            {ngram: count * idf.get(ngram, unseen) for ngram, count in order.items()}
            for order in counts
        ]
        self.norms = [math.sqrt(sum(w * w for w in order.values())) for order in self.weights]
        self.length = counts[1].total()

    def similarity(self, reference: "_Weighted") -> float:
        """Return the mean over orders of the clipped cosines, times the penalty on the difference in length."""
        total = 0.0
        for order, others, *norms in zip(
            self.weights, reference.weights, self.norms, reference.norms, strict=True
        ):
            product = sum(
                min(weight, others[ngram]) * others[ngram]
                for ngram, weight in order.items()
                if ngram in others
            )
            total += product / (math.prod(norms) or 1.0)
        difference = self.length - reference.length
        return total / len(ORDERS) * math.exp(-(difference**2) / (2 * _SIGMA**2))


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return CIDEr-D, 0 to 10, the mean over images and their references.

    An n-gram weighs by the logarithm of the number of images over that of the images with it in a reference: the score
    depends on the set, and is 0 for a single image.

    Args:
      candidates: the words of one caption per image.
      references: the words of each image's references.
    """
    counted = [[count_ngrams(reference) for reference in several] for several in references]
    images: Counter[Ngram] = Counter()
    for several in counted:
        images.update({ngram for counts in several for order in counts for ngram in order})
    unseen = math.log(len(references))
    idf = {ngram: unseen - math.log(count) for ngram, count in images.items()}
    scores = []
    for candidate, several in zip(candidates, counted, strict=True):
        own = _Weighted(count_ngrams(candidate), idf, unseen)
        similar = sum(own.similarity(_Weighted(counts, idf, unseen)) for counts in several)
        scores.append(_SCALE * similar / len(several))
    return sum(scores) / len(scores)
