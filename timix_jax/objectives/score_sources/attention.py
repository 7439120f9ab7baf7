"""Attention of [CLS] to the patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax

from timix_jax.mixing import scores
from timix_jax.models.protocols import ClsAttending, ImageTextModel, require
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class Attention(ScoreSource):
    """Attention of [CLS] in the last block: the scores of SMMix, which do not read the caption."""

    name: ClassVar[str] = "attention"
    reads_text: ClassVar[bool] = False

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the input of the last block."""
        attending = require(model, ClsAttending, f"mix.score={self.title!r}")
        return (
            Feature("image", view, self.teacher, block=attending.attention_input, gradient=False),
        )

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standardised attention."""
        model = require(forward.model, ClsAttending, f"mix.score={self.title!r}")
        tokens = forward.block(model.attention_input, view, teacher=self.teacher)
        attention = model.cls_attention(self.weights(forward), jax.lax.stop_gradient(tokens))
        return scores.from_attention(attention)
