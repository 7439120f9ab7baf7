"""Sources that read no model: an upper bound, and what scores are worth that do not know the caption."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing import scores
from timix_jax.mixing.fraction import take_rows
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class Random(ScoreSource):
    """Random scores."""

    name: ClassVar[str] = "random"
    reads_text: ClassVar[bool] = False

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standard normal scores."""
        batch, patches = forward.patches(view).shape[:2]
        return scores.random(forward.stream("scores"), batch, patches)


@dataclasses.dataclass(frozen=True)
class Centre(ScoreSource):
    """The closer to the centre of the image the higher: what a score is worth that reads neither text nor image."""

    name: ClassVar[str] = "centre"
    reads_text: ClassVar[bool] = False

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standardised negative squared distances from the centre."""
        grid = forward.model.grid
        axis = jnp.square(jnp.arange(grid, dtype=jnp.float32) - (grid - 1) / 2)
        scored = scores.standardise(-(axis[:, None] + axis[None, :]).reshape(1, -1))
        return jnp.broadcast_to(scored, (len(forward.patches(view)), grid * grid))


@dataclasses.dataclass(frozen=True)
class Oracle(ScoreSource):
    """The boxes of what the caption names, as an upper bound for experiments."""

    name: ClassVar[str] = "oracle"

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return the share of each patch that lies in a box of the batch."""
        boxes, mask = forward.batch["boxes"], forward.batch["box_mask"]
        rows = forward.view(view).rows
        if rows is not None:
            boxes, mask = take_rows(boxes, rows), take_rows(mask, rows)
        if self.shuffled:
            boxes, mask = jnp.roll(boxes, 1, axis=0), jnp.roll(mask, 1, axis=0)
        return scores.from_boxes(boxes, mask, forward.model.grid)


@dataclasses.dataclass(frozen=True)
class Clutter(Oracle):
    """The boxes of what the caption does not name: how much mixing loses if it pastes things that no text speaks of."""

    name: ClassVar[str] = "clutter"
