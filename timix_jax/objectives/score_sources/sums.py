"""Sums of sources: `mix.score="tpp+single_patch"`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from timix_jax.mixing import scores
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class Sum(ScoreSource):
    """The sum of the standardised scores of several sources.

    Attributes:
      parts: the sources; `teacher` and `shuffled` are theirs.
    """

    parts: tuple[ScoreSource, ...] = ()

    @property
    def title(self) -> str:
        """The sources as `mix.score` names them."""
        return "+".join(part.title for part in self.parts)

    @property
    def trained(self) -> str:  # type: ignore[override]
        """The first objective that trains one of the sources; empty if there is none."""
        return next((part.trained for part in self.parts if part.trained), "")

    @property
    def reads_text(self) -> bool:  # type: ignore[override]
        """True if one of the sources reads the text."""
        return any(part.reads_text for part in self.parts)

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return what the sources read."""
        return [feature for part in self.parts for feature in part.reads(model, view)]

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return the standardised sum of the standardised scores."""
        parts = [scores.standardise(part(forward, view)) for part in self.parts]
        return scores.standardise(jnp.sum(jnp.stack(parts), axis=0))
