"""Probability of the caption, among other captions, given a patch and its neighbourhood."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing import scores
from timix_jax.mixing.fraction import select_rows, take_rows
from timix_jax.models.protocols import ImageTextModel, SinglePatchEncoding, require
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource
from timix_jax.objectives.score_sources.single_patch import NEIGHBOUR, encoded_patches

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

CAPTIONS = 256
"""Largest number of other captions: enough to tell which patches fit a caption more than the rest."""


@dataclasses.dataclass(frozen=True)
class Posterior(ScoreSource):
    """log p(caption | patch), p the model's own softmax over the captions of the batch; needs no annotation.

    Patches are encoded alone, as for `single_patch`, and averaged over their neighbourhood. Clutter fits other
    captions better, and background fits all alike, so that both score below what the caption names; `single_patch`
    cannot tell a patch that fits one caption from a patch that fits many a little.
    """

    name: ClassVar[str] = "posterior"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the captions; the patches are those of the stem."""
        require(model, SinglePatchEncoding, f"mix.score={self.title!r}")
        return (self.text_feature(view),)

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standardised log-probabilities.

        `batch["caption_sample"]` (M, D), which an evaluation of a whole set gives, takes the place of the batch's
        captions.
        """
        patches = encoded_patches(self, forward, view)
        text = self.text(forward, view).embedding
        rows, count, width = patches.shape
        near = scores.smoothed(
            patches.swapaxes(1, 2).reshape(-1, count), forward.model.grid, NEIGHBOUR
        ).reshape(rows, width, count)
        temperature = jax.lax.stop_gradient(forward.model.temperature(self.weights(forward)))
        precision = jax.lax.Precision.HIGHEST  # the same windows on every device
        own = jnp.einsum("bdn,bd->bn", near, text, precision=precision) / temperature
        others, itself = _others(forward, text)
        fits = jnp.einsum("bdn,cd->bnc", near, others, precision=precision) / temperature
        fits = jnp.where(itself[:, None], -jnp.inf, fits)
        total = jnp.logaddexp(own, jax.nn.logsumexp(fits, axis=2))
        return scores.standardise(own - total)


def _others(forward: Forward, text: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return captions (M, D) to compare with, and bool (n, M), True where one is the row's own."""
    sample = forward.batch.get("caption_sample")
    if sample is not None:  # an own caption among them counts twice, which changes no order
        return sample, jnp.zeros((len(text), len(sample)), bool)
    rows = select_rows(len(text), min(1.0, CAPTIONS / len(text)))
    return take_rows(text, rows), jnp.arange(len(text))[:, None] == rows
