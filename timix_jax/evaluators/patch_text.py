"""Does the patch predictor find what a text speaks of? Measured against annotated boxes."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from timix_jax.data.evaluation import region_batches
from timix_jax.errors import UserError
from timix_jax.evaluators.localisation import pointing, roc_auc
from timix_jax.evaluators.placement import batch_sharding, divisible, place, replicated
from timix_jax.objectives.patch_labels import patch_labels

if TYPE_CHECKING:
    from timix_jax.data.sources import Source
    from timix_jax.data.tokenizers import Tokenizer
    from timix_jax.models.dual_encoder import DualEncoder

MAX_REGIONS = 5
"""Regions an image, as in training (paper §2)."""


class RegionScores(NamedTuple):
    """A row a region text: log p₁ of the predictor (K,N), cosine (K,N), labels bool (K,N)."""

    predictor: jax.Array
    similarity: jax.Array
    labels: jax.Array


def score_regions(
    model: DualEncoder, params: Any, images: jax.Array, tokens: jax.Array, boxes: jax.Array
) -> RegionScores:
    """Patch scores of each region text on its whole image, and the labels of its box.

    Args:
      model: the pure functions.
      params: its parameters.
      images: uint8 (B,H,W,3).
      tokens: int32 (B,R,T).
      boxes: float32 (B,R,4), x0, y0, x1, y1 as fractions.

    Returns:
      rows in the order of (B,R): K = B·R.
    """
    batch, regions = tokens.shape[:2]
    image = model.encode_patches(
        params, model.embed_patches(params, images), capture=model.tpp_layer
    )
    text = model.encode_text(params, tokens.reshape(batch * regions, -1))
    site = jnp.repeat(model.patch_tokens(image.captured), regions, axis=0)
    logp = model.patch_logp(params, site, text.cls)
    projected = model.project_patches(params, image.patches)
    embedding = text.embedding.reshape(batch, regions, -1)
    cosine = jnp.einsum("bnd,brd->brn", projected, embedding, precision=jax.lax.Precision.HIGHEST)
    rows = batch * regions
    return RegionScores(
        logp[..., 1], cosine.reshape(rows, -1), patch_labels(boxes, model.grid).reshape(rows, -1)
    )


class PatchTextEvaluator:
    """AUC and pointing game over the regions of ``source`` (see :func:`build_evaluator`)."""

    def __init__(
        self,
        *,
        model: DualEncoder,
        source: Source,
        tokenizer: Tokenizer,
        mesh: Mesh,
        image_size: int,
        max_tokens: int,
        batch_size: int,
    ) -> None:
        """Compiles nothing yet; raises UserError for a source without boxes."""
        if len(source.annotated) == 0:
            raise UserError(
                f"Evaluation set {source.name!r} has no boxes: "
                "patch_text needs regions, so give it annotated data or leave the evaluator out."
            )
        self._source, self._tokenizer, self._mesh = source, tokenizer, mesh
        self._image_size, self._max_tokens = image_size, max_tokens
        self._batch_size = divisible(batch_size, mesh)

        def score(
            params: Any, images: jax.Array, tokens: jax.Array, boxes: jax.Array
        ) -> RegionScores:
            return score_regions(model, params, images, tokens, boxes)

        self._score = jax.jit(score, out_shardings=replicated(mesh))

    def run(self, params: Any) -> dict[str, float]:
        """Means over regions, as fractions.

        Regions whose box touches every patch say nothing and are left out.

        Returns:
          auc, pointing of the patch predictor's log p₁; similarity_auc, similarity_pointing of the
          cosine of projected patch and text; auc_chance, ½; pointing_chance, the mean share of
          positive patches.

        Raises:
          UserError: no region is left to measure.
        """
        sharding = batch_sharding(self._mesh)
        batches = region_batches(
            self._source,
            self._tokenizer,
            image_size=self._image_size,
            max_tokens=self._max_tokens,
            batch_size=self._batch_size,
            max_regions=MAX_REGIONS,
        )
        values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        regions = 0
        for batch in batches:
            valid = batch["mask"].reshape(-1)
            inputs = (batch[name] for name in ("image", "tokens", "boxes"))
            scored = self._score(params, *(place(x, sharding) for x in inputs))
            labels = np.asarray(scored.labels)
            tells = valid & ~labels.all(axis=1)
            regions += int(np.sum(valid))
            for name, value in _region_metrics(scored, labels, tells).items():
                values[name].append(value)
        means = {name: np.concatenate(parts) for name, parts in values.items()}
        kept = len(means["auc"]) if means else 0
        if kept == 0:
            raise UserError(
                f"Evaluation set {self._source.name!r} has no box smaller than its image: "
                "patch_text has nothing to measure, so leave the evaluator out."
            )
        if kept < regions:
            logging.info(
                "%s: patch_text leaves out %d of %d regions that touch every patch",
                self._source.name,
                regions - kept,
                regions,
            )
        return {name: float(np.mean(value)) for name, value in means.items()}


def _region_metrics(
    scored: RegionScores, labels: np.ndarray, tells: np.ndarray
) -> dict[str, np.ndarray]:
    """Metric -> float (k,) of the k regions chosen by ``tells`` bool (K,)."""
    labels = labels[tells]
    predictor = np.asarray(scored.predictor, np.float32)[tells]
    similarity = np.asarray(scored.similarity, np.float32)[tells]
    return {
        "auc": roc_auc(predictor, labels),
        "auc_chance": np.full(len(labels), 0.5),
        "pointing": pointing(predictor, labels),
        "pointing_chance": labels.mean(axis=1),
        "similarity_auc": roc_auc(similarity, labels),
        "similarity_pointing": pointing(similarity, labels),
    }
