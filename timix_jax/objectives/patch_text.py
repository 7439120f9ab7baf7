"""Patch-text alignment (PTA, docs/method.md §2), which trains the patch predictor."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.models.protocols import ImageTextModel, PatchPredicting, require
from timix_jax.objectives.base import Array, Objective, Term
from timix_jax.objectives.features import CLEAN, Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.patch_labels import patch_labels
from timix_jax.objectives.views.base import View
from timix_jax.objectives.views.regions import REGIONS, RegionView


@dataclasses.dataclass(frozen=True)
class PatchTextAlignment(Objective):
    """Cross-entropy of the predictor against 0/1 patch labels from boxes.

    The annotated images are a separate batch (`batch["regions"]`), each with up to R (text, box) pairs. Only ViT blocks
    0..tpp_layer run, once per image.

    Attributes:
      full_captions: also label every patch of the main batch's captions 1, as the released code does.
    """

    full_captions: bool = False

    name: ClassVar[str] = "pta"
    reads_regions: ClassVar[bool] = True
    views: ClassVar[Sequence[View]] = (RegionView(),)

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the tokens of the predictor's block for the annotated images, and their texts."""
        tpp = require(model, PatchPredicting, "config.loss.pta")
        views = (REGIONS, CLEAN) if self.full_captions else (REGIONS,)
        return [
            feature
            for view in views
            for feature in (Feature("image", view, block=tpp.tpp_layer), Feature("text", view))
        ]

    def __call__(self, forward: Forward) -> Term:
        """Return the mean over all patches of the valid regions; log the accuracy."""
        regions = forward.batch["regions"]
        images, per_image = regions["tokens"].shape[:2]
        logp = _predict(forward, REGIONS, per_image)
        labels = patch_labels(regions["boxes"], forward.model.grid).reshape(images * per_image, -1)
        valid = regions["mask"].reshape(-1)
        total, count = alignment_sum(logp, labels, valid)
        if self.full_captions:
            logp_full = _predict(forward, CLEAN)
            ones = jnp.ones(logp_full.shape[:2], labels.dtype)
            more, rows = alignment_sum(logp_full, ones, jnp.ones(len(ones), bool))
            total, count = total + more, count + rows
        hits = ((logp[..., 1] > logp[..., 0]) == (labels > 0)).mean(axis=1)
        accuracy = jnp.sum(hits * valid) / jnp.maximum(valid.sum(), 1)
        return Term(total / jnp.maximum(count, 1), {"pta_accuracy": accuracy})


def _predict(forward: Forward, view: str, captions_per_image: int = 1) -> Array:
    """Return the log-probabilities (M, N, 2) of each of a view's captions on its image."""
    model = require(forward.model, PatchPredicting, "config.loss.pta")
    site = model.patch_tokens(forward.block(model.tpp_layer, view))
    if captions_per_image > 1:
        site = jnp.repeat(site, captions_per_image, axis=0)
    return model.patch_logp(forward.params, site, forward.text(view).cls)


def alignment_sum(logp: Array, labels: Array, valid: Array) -> tuple[Array, Array]:
    """Return the summed cross-entropy and the number of patches in it.

    Args:
      logp: (M, N, 2) log-probabilities.
      labels: (M, N) 0/1 or bool.
      valid: (M,) bool; invalid rows do not count.
    """
    picked = jnp.where(labels.astype(bool), logp[..., 1], logp[..., 0])
    rows = valid.astype(logp.dtype)
    return -jnp.sum(picked.sum(axis=1) * rows), rows.sum() * jnp.asarray(logp.shape[1])
