"""Image-to-text and text-to-image recall over a whole data source."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from timix_jax.errors import UserError
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.embeddings import Embedder
from timix_jax.evaluators.ranks import Ranks, retrieval_ranks

RECALL_AT = (1, 5, 10)


def chance_recall(candidates: int, positives: np.ndarray, k: int) -> float:
    """Return the expected R@k of a random order: the mean over queries of 1 - C(M-c, k) / C(M, k).

    `candidates` = M; `positives` int (Q,) = c, the number of right ones per query.
    """
    counts, weights = np.unique(positives, return_counts=True)
    drawn = np.arange(min(k, candidates))
    miss = np.prod(
        np.clip(candidates - counts[:, None] - drawn, 0, None) / (candidates - drawn), axis=1
    )
    return float(np.average(1.0 - miss, weights=weights))


def recall_metrics(ranks: Ranks, image_index: np.ndarray) -> dict[str, float]:
    """Return R@1/5/10 in both directions, their mean and their chance levels, as fractions.

    Images without captions are not queries of i2t but remain candidates of t2i. `image_index` is
    int (M,), the image of each caption.
    """
    captions = np.bincount(image_index, minlength=len(ranks.i2t))
    i2t = ranks.i2t[captions > 0]
    metrics = {f"i2t_r{k}": float(np.mean(i2t < k)) for k in RECALL_AT}
    metrics |= {f"t2i_r{k}": float(np.mean(ranks.t2i < k)) for k in RECALL_AT}
    metrics["mean_recall"] = float(np.mean(list(metrics.values())))
    one = np.ones(1, np.int64)
    for k in RECALL_AT:
        metrics[f"i2t_chance_r{k}"] = chance_recall(len(image_index), captions[captions > 0], k)
        metrics[f"t2i_chance_r{k}"] = chance_recall(len(ranks.i2t), one, k)
    return metrics


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(Evaluator):
    """R@1/5/10 in both directions on every image and caption of the source.

    Attributes:
      inputs: see `EvaluationInputs`.
      block: rows and columns of the similarity matrix computed at a time.

    Raises:
      UserError: the source is empty or its embeddings exceed memory, or the block is below 1.

    **Example:**

        RetrievalEvaluator(inputs).run(params)["i2t_r1"]
    """

    block: int = 2048

    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Recall at 1": {"i2t_r1": "image → text", "t2i_r1": "text → image"},
        "Recall at 10": {"i2t_r10": "image → text", "t2i_r10": "text → image"},
    }

    def __post_init__(self) -> None:
        source = self.inputs.source
        if self.block < 1:
            raise UserError(
                f"config.eval.options.retrieval.block={self.block}: give at least 1, such as 2048"
            )
        if len(source) == 0:
            raise UserError(
                f"Evaluation set {source.name!r} is empty: "
                "retrieval needs at least one image with a caption."
            )
        # With at least one caption per image: refused now rather than after hours of training.
        self._embedder.check_memory(len(source))

    def run(self, params: Any) -> dict[str, float]:
        """Measure recall of `params` (on the mesh): i2t_r1 ... t2i_r10, mean_recall, and chance levels.

        Raises:
          UserError: the embeddings exceed memory, or an example is corrupt.
        """
        texts, image_index = self._embedder.captions(params, self.inputs.source)
        images = self._embedder.images(params)
        ranks = retrieval_ranks(images, texts, image_index, self.inputs.mesh, self.block)
        return recall_metrics(ranks, image_index)

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return recalls in percent with their chance levels."""
        parts = []
        for way, label in (("i2t", "image→text"), ("t2i", "text→image")):
            recalls = " / ".join(f"{100 * metrics[f'{way}_r{k}']:.1f}" for k in RECALL_AT)
            chance = 100 * metrics[f"{way}_chance_r10"]
            parts.append(f"{label} R@1/5/10 {recalls}% (chance R@10 {chance:.1f})")
        return "  ".join(parts)

    @functools.cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.inputs, "retrieval")
