"""Scores of the trained patch predictor (docs/method.md §1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax

from timix_jax.mixing import scores
from timix_jax.models.protocols import ImageTextModel, PatchPredicting, require
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class Predictor(ScoreSource):
    """The patch predictor, which patch-text alignment trains on boxes; the tower runs only up to its block."""

    name: ClassVar[str] = "tpp"
    trained: ClassVar[str] = "pta"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the predictor's block and the captions."""
        tpp = require(model, PatchPredicting, f"mix.score={self.title!r}")
        block = Feature("image", view, self.teacher, block=tpp.tpp_layer, gradient=False)
        return (block, self.text_feature(view))

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return z-scores of log p₁."""
        model = require(forward.model, PatchPredicting, f"mix.score={self.title!r}")
        block = forward.block(model.tpp_layer, view, teacher=self.teacher)
        site = jax.lax.stop_gradient(model.patch_tokens(block))
        logp = model.patch_logp(self.weights(forward), site, self.text(forward, view).cls)
        return scores.from_logp(logp)
