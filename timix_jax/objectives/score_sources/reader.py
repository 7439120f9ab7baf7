"""An objective without a loss, through which an evaluator runs score sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.base import Objective, Term
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.score_sources.base import ScoreSource


@dataclasses.dataclass(frozen=True)
class ScoreReader(Objective):
    """Declares what its sources read of the clean batch, so that a `Forward` shares their passes.

    Attributes:
      sources: the sources.
    """

    sources: tuple[ScoreSource, ...] = ()

    name: ClassVar[str] = "score_reader"

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the features of all sources."""
        return [feature for source in self.sources for feature in source.reads(model, "clean")]

    def __call__(self, forward: Forward) -> Term:
        """Return no loss."""
        del forward
        return Term(jnp.zeros(()))
