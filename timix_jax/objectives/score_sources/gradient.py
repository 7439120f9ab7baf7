"""Norm of the gradient of the image-text similarity at each patch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing import scores
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.features import Feature
from timix_jax.objectives.score_sources.base import ScoreSource

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class Gradient(ScoreSource):
    """How much the similarity of image and centred caption depends on a patch; costs a forward and a backward pass."""

    name: ClassVar[str] = "gradient"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the captions; the source runs an image pass of its own."""
        del model
        return (self.text_feature(view),)

    def __call__(self, forward: Forward, view: str) -> jax.Array:
        """Return standardised norms of the gradient at the stem's outputs."""
        params = self.weights(forward)
        caption = self.centred_caption(forward, view)
        patches = jax.lax.stop_gradient(forward.patches(view, teacher=self.teacher))

        def similarity(patches: jax.Array) -> jax.Array:
            return jnp.sum(forward.model.encode_image(params, patches).embedding * caption)

        slope = jax.grad(similarity)(patches)
        return scores.standardise(jnp.linalg.norm(slope.astype(jnp.float32), axis=-1))
