"""ROUGE-L (Lin, 2004) as COCO's evaluation computes it."""

from collections.abc import Sequence

from timix_jax.evaluators.caption_metrics.ngrams import Words

_BETA = 1.2  # weight of the recall


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return the mean over images of the F-measure of the longest common subsequence.

    Precision and recall are each the best over an image's references. A caption without words scores 0.

    Args:
      candidates: the words of one caption per image.
      references: the words of each image's references.
    """
    scores = [_f_measure(c, several) for c, several in zip(candidates, references, strict=True)]
    return sum(scores) / len(scores)


def _f_measure(candidate: Words, references: Sequence[Words]) -> float:
    lengths = [_longest_common_subsequence(candidate, reference) for reference in references]
    precision = max(lengths) / max(len(candidate), 1)
    recall = max(
        length / max(len(reference), 1)
        for length, reference in zip(lengths, references, strict=True)
    )
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common_subsequence(one: Words, other: Words) -> int:
    row = [0] * (len(other) + 1)
    for a in one:
        diagonal = 0
        for j, b in enumerate(other, start=1):
            above = row[j]
            row[j] = diagonal + 1 if a == b else max(above, row[j - 1])
            diagonal = above
    return row[-1]
