"""Cosine similarity of final patch tokens and caption."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax

from timix_jax.mixing import scores
from timix_jax.models.protocols import ImageTextModel, PatchProjecting, require
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class Similarity(ScoreSource):
    """Cosine similarity of projected patches and caption.

    After attention a patch token says what the image shows rather than what the patch shows, so this source separates
    what a caption names from clutter worse than `single_patch`.
    """

    name: ClassVar[str] = "similarity"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the patches of the whole tower, and the captions."""
        require(model, PatchProjecting, f"mix.score={self.title!r}")
        patches = Feature("image", view, self.teacher, all_patches=True, gradient=False)
        return (patches, self.text_feature(view))

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standardised cosines."""
        model = require(forward.model, PatchProjecting, f"mix.score={self.title!r}")
        image = forward.image(view, teacher=self.teacher, all_patches=True)
        patches = jax.lax.stop_gradient(image.patches)
        projected = model.project_patches(self.weights(forward), patches)
        return scores.from_similarity(projected, self.text(forward, view).embedding)
