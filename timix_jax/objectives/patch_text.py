"""Patch-text alignment (PTA, paper §2): what trains the patch predictor."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Array, Forward, Objective
from timix_jax.objectives.passes import Batch, Pass
from timix_jax.objectives.patch_labels import patch_labels


@dataclasses.dataclass(frozen=True)
class PatchTextAlignment(Objective):
    """Cross-entropy of the predictor against 0/1 patch labels from boxes.

    The annotated images come as a batch of their own (`batch["regions"]`), each with up to R (text, box); only
    ViT blocks 0..tpp_layer run, once an image.

    Attributes:
      full_captions: also label every patch of the main batch's captions 1, as the released code does.
    """

    weight: float = 1.0
    full_captions: bool = False

    name: ClassVar[str] = "pta"

    def passes(self, model: DualEncoder, batch: Batch) -> Sequence[Pass]:
        """Annotated images up to the predictor's site, their texts, and the predictor on each pair of them."""
        images, per_image, length = batch["regions"]["tokens"].shape
        site = model.tpp_layer + 1
        passes = [
            Pass(rows=images, stem=True, blocks=site),
            Pass(rows=images * per_image, text_tokens=length, predictor=True),
        ]
        if self.full_captions:
            passes.append(Pass(rows=batch["image"].shape[0], blocks=site, predictor=True))
        return passes

    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """Mean over the valid regions and all patches; the accuracy of the labels goes to the log."""
        regions = forward.batch["regions"]
        patches = model.embed_patches(forward.params, regions["image"])
        site = model.encode_site(forward.params, patches)
        tokens = regions["tokens"]
        images, per_image, length = tokens.shape
        cls = model.encode_text(forward.params, tokens.reshape(images * per_image, length)).cls
        logp = model.patch_logp(forward.params, jnp.repeat(site, per_image, axis=0), cls)
        labels = patch_labels(regions["boxes"], model.grid).reshape(images * per_image, -1)
        valid = regions["mask"].reshape(-1)
        total, count = alignment_sum(logp, labels, valid)
        if self.full_captions:
            site = model.encode_site(forward.params, forward.patches)
            logp_full = model.patch_logp(forward.params, site, forward.text.cls)
            ones = jnp.ones(logp_full.shape[:2], labels.dtype)
            more, rows = alignment_sum(logp_full, ones, jnp.ones(len(ones), bool))
            total, count = total + more, count + rows
        hits = ((logp[..., 1] > logp[..., 0]) == (labels > 0)).mean(axis=1)
        accuracy = jnp.sum(hits * valid) / jnp.maximum(valid.sum(), 1)
        return total / jnp.maximum(count, 1), {"pta_accuracy": accuracy}


def alignment_sum(logp: Array, labels: Array, valid: Array) -> tuple[Array, Array]:
    """Summed cross-entropy and the number of patches behind it.

    Args:
      logp: (M, N, 2) log-probabilities.
      labels: (M, N) 0/1 or bool.
      valid: (M,) bool; invalid rows count nothing.
    """
    picked = jnp.where(labels.astype(bool), logp[..., 1], logp[..., 0])
    rows = valid.astype(logp.dtype)
    return -jnp.sum(picked.sum(axis=1) * rows), rows.sum() * jax.numpy.asarray(logp.shape[1])
