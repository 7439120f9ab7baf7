"""Similarity of the caption with each patch encoded on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax

from timix_jax.mixing import scores
from timix_jax.models.protocols import ImageTextModel, SinglePatchEncoding, require
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

NEIGHBOUR = 0.6
"""Weight of a neighbouring patch: what a caption names covers several patches, of which one shows little alone."""


@dataclasses.dataclass(frozen=True)
class SinglePatch(ScoreSource):
    """Similarity of single patches and the centred caption; needs no annotation.

    A patch that passes through the tower without its neighbours is embedded by what it shows. From each caption the
    mean caption of the batch is subtracted: what all captions have in common points to no patch of any image. Each
    patch then gets the weighted mean of its neighbourhood (`scores.smoothed`).
    """

    name: ClassVar[str] = "single_patch"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the captions; the patches are those of the stem."""
        require(model, SinglePatchEncoding, f"mix.score={self.title!r}")
        return (self.text_feature(view),)

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standardised means over neighbourhoods of products of unit-norm patches and centred captions."""
        encoded = encoded_patches(self, forward, view)
        similarity = scores.from_similarity(encoded, self.centred_caption(forward, view))
        return scores.standardise(scores.smoothed(similarity, forward.model.grid, NEIGHBOUR))


def encoded_patches(source: ScoreSource, forward: Forward, view: str) -> jax.Array:
    """Return each patch of a view encoded as an image of its own, a constant (n, N, D) of unit norm; runs once."""
    model = require(forward.model, SinglePatchEncoding, f"mix.score={source.title!r}")
    patches = jax.lax.stop_gradient(forward.patches(view, teacher=source.teacher))
    return forward.once(
        ("single_patches", forward.shown(view), source.teacher),
        lambda: model.encode_single_patches(source.weights(forward), patches),
    )
