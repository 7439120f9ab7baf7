"""Localisation by the patch predictor: how well it finds what a text describes, against annotated boxes."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from timix_jax.data.loading.evaluation import region_batches
from timix_jax.errors import UserError
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.localisation import pointing, roc_auc
from timix_jax.evaluators.placement import divisible, own_share
from timix_jax.evaluators.region_check import every_region_covers_its_image, require_regions
from timix_jax.evaluators.sweep import Arrays, Compute, jitted, sweep
from timix_jax.models.protocols import ImageTextModel, PatchPredicting, PatchProjecting, require
from timix_jax.objectives.patch_labels import patch_labels

if TYPE_CHECKING:
    from timix_jax.data.sources import Source


class RegionScores(NamedTuple):
    """One row per region text: log p₁ of the predictor (K, N), cosine (K, N), labels bool (K, N)."""

    predictor: jax.Array
    similarity: jax.Array
    labels: jax.Array


def score_regions(
    model: ImageTextModel, params: Any, images: jax.Array, tokens: jax.Array, boxes: jax.Array
) -> RegionScores:
    """Score every patch of an image for each region text, and label the patches of its box.

    Args:
      model: the pure functions.
      params: its parameters.
      images: uint8 (B, H, W, 3).
      tokens: int32 (B, R, T).
      boxes: float32 (B, R, 4), x0, y0, x1, y1 as fractions.

    Returns:
      K = B·R rows in the order of (B, R).
    """
    predictor = require(model, PatchPredicting, "patch_text")
    projector = require(model, PatchProjecting, "patch_text")
    layer, (batch, regions) = predictor.tpp_layer, tokens.shape[:2]
    image = model.encode_image(params, model.embed_patches(params, images), blocks=(layer,))
    text = model.encode_text(params, tokens.reshape(batch * regions, -1))
    site = jnp.repeat(predictor.patch_tokens(image.blocks[layer]), regions, axis=0)
    logp = predictor.patch_logp(params, site, text.cls)
    projected = projector.project_patches(params, image.patches)
    embedding = text.embedding.reshape(batch, regions, -1)
    cosine = jnp.einsum("bnd,brd->brn", projected, embedding, precision=jax.lax.Precision.HIGHEST)
    rows = batch * regions
    return RegionScores(
        logp[..., 1], cosine.reshape(rows, -1), patch_labels(boxes, model.grid).reshape(rows, -1)
    )


@dataclasses.dataclass(frozen=True)
class PatchTextEvaluator(Evaluator):
    """AUC and pointing game over the regions of the source.

    Raises:
      UserError: the source has no boxes.
    """

    abilities: ClassVar[Sequence[type]] = (PatchPredicting, PatchProjecting)

    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Patch predictor against boxes": {"auc": "AUC", "pointing": "pointing game"}
    }

    @classmethod
    def applies_to(cls, source: Source) -> bool:
        """Return True if the source has boxes."""
        return len(source.annotated) > 0

    def __post_init__(self) -> None:
        require_regions(self.inputs.source, "patch_text")

    def check(self) -> None:
        """Refuse a set in which no box is smaller than its image."""
        if every_region_covers_its_image(self.inputs.source, self.inputs.model.grid):
            raise self._nothing_to_measure()

    def _nothing_to_measure(self) -> UserError:
        return UserError(
            f"Evaluation set {self.inputs.source.name!r} has no box smaller than its image: "
            "patch_text has nothing to measure, so leave the evaluator out."
        )

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return the figures of the patch predictor with their chance levels."""
        hits, chance = 100 * metrics["pointing"], 100 * metrics["pointing_chance"]
        return (
            f"patches: AUC {metrics['auc']:.3f} (chance 0.5), "
            f"pointing game {hits:.1f}% (chance {chance:.1f})"
        )

    @functools.cached_property
    def _score(self) -> Compute:
        model = self.inputs.model

        def score(params: Any, batch: Arrays) -> Arrays:
            scored = score_regions(model, params, batch["image"], batch["tokens"], batch["boxes"])
            return {"mask": batch["mask"], **scored._asdict()}

        return jitted(score, self.inputs.mesh)

    def run(self, params: Any) -> dict[str, float]:
        """Measure localisation as means over regions.

        Regions whose box touches every patch are left out: no score can be wrong there.

        Returns:
          auc, pointing of the patch predictor's log p₁; similarity_auc, similarity_pointing of the
          cosine of projected patch and text; auc_chance, ½; pointing_chance, the mean share of
          positive patches.

        Raises:
          UserError: no region is left.
        """
        mesh = self.inputs.mesh
        share = own_share(mesh)
        batches = region_batches(
            self.inputs.source,
            self.inputs.tokenizer,
            image_size=self.inputs.image_size,
            max_tokens=self.inputs.max_tokens,
            batch_size=divisible(self.inputs.batch_size, mesh),
            max_regions=self.inputs.max_regions,
            share=share,
        )
        values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        examples: list[np.ndarray] = []
        regions = 0
        for scored in sweep(self._score, params, batches, share, mesh):
            valid = (scored["mask"] & scored["valid"][:, None]).reshape(-1)
            informative = valid & ~scored["labels"].all(axis=1)
            regions += int(np.sum(valid))
            examples.append(np.repeat(scored["index"], scored["mask"].shape[1])[informative])
            for name, value in _region_metrics(scored, informative).items():
                values[name].append(value)
        # Ordered as in the source, so that the sums do not depend on the number of devices.
        order = np.argsort(np.concatenate(examples), kind="stable")
        means = {name: np.concatenate(parts)[order] for name, parts in values.items()}
        kept = len(order)
        if kept == 0:
            raise self._nothing_to_measure()
        if kept < regions:
            logging.info(
                "%s: patch_text leaves out %d of %d regions that touch every patch",
                self.inputs.source.name,
                regions - kept,
                regions,
            )
        return {name: float(np.mean(value)) for name, value in means.items()}


def _region_metrics(
    scored: dict[str, np.ndarray], informative: np.ndarray
) -> dict[str, np.ndarray]:
    """Return metric → float (k,) for the k regions chosen by `informative` bool (K,)."""
    labels = scored["labels"][informative]
    predictor = scored["predictor"].astype(np.float32)[informative]
    similarity = scored["similarity"].astype(np.float32)[informative]
    return {
        "auc": roc_auc(predictor, labels),
        "auc_chance": np.full(len(labels), 0.5),
        "pointing": pointing(predictor, labels),
        "pointing_chance": labels.mean(axis=1),
        "similarity_auc": roc_auc(similarity, labels),
        "similarity_pointing": pointing(similarity, labels),
    }
