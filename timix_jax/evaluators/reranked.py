"""Retrieval in two stages: the most similar candidates are put in order again by matching (docs/method.md §5)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from timix_jax.errors import UserError
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.fusion_states import CaptionStates, ImageStates, StateReader
from timix_jax.evaluators.match_scores import MatchScores
from timix_jax.evaluators.ranks import MISS, Ranks, retrieval_ranks
from timix_jax.evaluators.retrieval import RECALL_AT, recall_metrics
from timix_jax.models.fusion_protocols import FusionModel

SCORES = ("itm", "itm_itc")
_ROWS = 1024  # rows of the similarity matrix at a time


@dataclasses.dataclass(frozen=True)
class RerankedEvaluator(Evaluator):
    """Recall after matching has put each query's k most similar candidates in order; the rest stay below them.

    Two orders are reported, each with its gain over the mean recall of the similarities alone. `itm` is by the
    log-odds of a match. `itm_itc` adds the similarity over τ, times the hardness of the negatives in training: drawn by
    similarity, they make the odds those of a match given how similar a pair is, and the sum estimates the odds against
    any other candidate.

    `itm_accuracy` is the share of right decisions over each caption's own image and the most similar other one.

    Attributes:
      k: candidates per query that are put in order again.
      hardness: of the negatives that matching was trained with (`config.loss.itm.hardness`).

    Raises:
      UserError: the source is empty, k is below 1 or the hardness is negative.
    """

    k: int = 16
    hardness: float = 1.0

    abilities: ClassVar[Sequence[type]] = (FusionModel,)
    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Recall at 1, re-ranked": {
            "itm_itc_i2t_r1": "image → text",
            "itm_itc_t2i_r1": "text → image",
        },
        "Matching": {"itm_accuracy": "accuracy"},
    }

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"config.eval.options.reranked.k={self.k}: give at least 1, such as 16")
        if not self.hardness >= 0:
            raise UserError(
                f"config.eval.options.reranked.hardness={self.hardness}: give config.loss.itm.hardness, 0 to 1"
            )
        if len(self.inputs.source) == 0:
            raise UserError(f"Evaluation set {self.inputs.source.name!r} is empty")

    def run(self, params: Any) -> dict[str, float]:
        """Measure recall of `params` (on the mesh) in both orders, and the accuracy of matching."""
        images, captions = self._reader.images(params), self._reader.captions(params)
        by_image = top_candidates(images.embedding, captions.embedding, self.k)
        by_caption = top_candidates(captions.embedding, images.embedding, self.k)
        wrong = hardest_wrong(captions, by_caption.index)
        match = self._scored(params, images, captions, (by_image, by_caption), wrong)
        tau = float(self.inputs.model.temperature(params))
        base = retrieval_ranks(
            images.embedding, captions.embedding, captions.owner, self.inputs.mesh
        )
        image = np.arange(len(images.embedding))[:, None]
        caption, owner = np.arange(len(captions.owner))[:, None], captions.owner[:, None]
        log_odds = match(image, by_image.index), match(by_caption.index, caption)
        alone = recall_metrics(base, captions.owner)
        metrics: dict[str, float] = {}
        for name in SCORES:
            weight = self.hardness / tau if name == "itm_itc" else 0.0
            ranks = Ranks(
                rerank(
                    base.i2t,
                    log_odds[0] + weight * by_image.similarity,
                    captions.owner[by_image.index] == image,
                ),
                rerank(
                    base.t2i,
                    log_odds[1] + weight * by_caption.similarity,
                    by_caption.index == owner,
                ),
            )
            found = recall_metrics(ranks, captions.owner)
            metrics |= {f"{name}_{key}": v for key, v in found.items() if "chance" not in key}
            metrics[f"{name}_gain"] = found["mean_recall"] - alone["mean_recall"]
        return metrics | self._accuracy(captions, wrong, match)

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return recalls in percent, and the accuracy."""
        parts = []
        for name, label in zip(SCORES, ("by match", "by match and similarity"), strict=True):
            ways = (
                "/".join(f"{100 * metrics[f'{name}_{way}_r{n}']:.1f}" for n in RECALL_AT)
                for way in ("i2t", "t2i")
            )
            i2t, t2i = ways
            gain = f"mean {100 * metrics[f'{name}_gain']:+.1f}"
            parts.append(f"{label}: image→text {i2t}%, text→image {t2i}%, {gain}")
        accuracy = f"match accuracy {100 * metrics['itm_accuracy']:.1f}%"
        return f"top {self.k} re-ranked R@1/5/10 {'; '.join(parts)}; {accuracy}"

    @functools.cached_property
    def _reader(self) -> StateReader:
        return StateReader(self.inputs, "reranked")

    def _scored(
        self,
        params: Any,
        images: ImageStates,
        captions: CaptionStates,
        candidates: tuple[Candidates, Candidates],
        wrong: np.ndarray,
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Score all pairs that are needed, each once; return the function (image, caption) → log-odds."""
        by_image, by_caption = (found.index for found in candidates)
        own = np.arange(len(captions.owner))
        count = len(captions.owner)
        pairs = np.unique(
            np.concatenate(
                [
                    (np.arange(len(by_image))[:, None] * count + by_image).ravel(),
                    (by_caption * count + own[:, None]).ravel(),
                    captions.owner.astype(np.int64) * count + own,
                    wrong[wrong >= 0] * count + own[wrong >= 0],
                ]
            )
        )
        image, caption = np.divmod(pairs, count)
        values = MatchScores(self.inputs)(params, images, captions, image, caption)
        return lambda image, caption: values[np.searchsorted(pairs, image * count + caption)]

    @staticmethod
    def _accuracy(captions: CaptionStates, wrong: np.ndarray, scores: Any) -> dict[str, float]:
        number = np.arange(len(captions.owner))
        with_wrong = wrong >= 0
        matching = float(np.mean(scores(captions.owner.astype(np.int64), number) > 0))
        if not with_wrong.any():
            return {"itm_accuracy": matching}
        refused = float(np.mean(scores(wrong[with_wrong], number[with_wrong]) <= 0))
        return {"itm_accuracy": (matching + refused) / 2}


class Candidates(NamedTuple):
    """The k most similar candidates of Q queries, the most similar first.

    Attributes:
      index: int64 (Q, k).
      similarity: float32 (Q, k) cosines.
    """

    index: np.ndarray  # type: ignore[assignment]
    similarity: np.ndarray


def top_candidates(queries: np.ndarray, candidates: np.ndarray, k: int) -> Candidates:
    """Return the k most similar candidates (C, D), or all of fewer, of queries (Q, D)."""
    k = min(k, len(candidates))
    index, similarity = [], []
    for start in range(0, len(queries), _ROWS):
        s = queries[start : start + _ROWS] @ candidates.T
        best = np.argpartition(-s, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(s, best, axis=1), axis=1, kind="stable")
        index.append(np.take_along_axis(best, order, axis=1))
        similarity.append(np.take_along_axis(s, index[-1], axis=1))
    return Candidates(np.concatenate(index).astype(np.int64), np.concatenate(similarity))


def hardest_wrong(captions: CaptionStates, by_caption: np.ndarray) -> np.ndarray:
    """Return the first wrong image among each caption's candidates, int64 (M,); −1 where there is none.

    An image with an equal caption is not wrong.
    """
    owners: dict[bytes, set[int]] = {}
    for row, owner in zip(captions.tokens, captions.owner.tolist(), strict=True):
        owners.setdefault(row.tobytes(), set()).add(owner)
    wrong = np.full(len(by_caption), -1, np.int64)
    for number, row in enumerate(captions.tokens):
        right = owners[row.tobytes()]
        wrong[number] = next((i for i in by_caption[number].tolist() if i not in right), -1)
    return wrong


def rerank(base: np.ndarray, scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return 0-based ranks int32 (Q,): by score among the candidates, else by similarity.

    Ties count against the right candidates, and so does what has no score (NaN).

    Args:
      base: ranks (Q,) by similarity.
      scores: (Q, k) of the candidates.
      right: bool (Q, k), True for those that belong to the query.
    """
    best = np.max(np.where(right, scores, -np.inf), axis=1)
    ahead = np.sum(~right & ~(scores < best[:, None]), axis=1)
    ranks = np.where(right.any(axis=1), ahead, base)
    return np.where(np.isnan(best), MISS, ranks).astype(np.int32)
