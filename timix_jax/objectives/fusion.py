"""What objectives over images and captions together share: the model's ability, and the image memory of a step."""

from typing import Any

import jax

from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import ImageTextModel, require
from timix_jax.objectives.forward import Forward

Array = jax.Array


def fusion_model(model: ImageTextModel, objective: str) -> FusionModel:
    """Return the model, known to have a fusion encoder.

    Raises:
      UserError: it has none; the message names `config.loss.OBJECTIVE`.
    """
    return require(model, FusionModel, f"config.loss.{objective}")


def image_memory(forward: Forward, model: FusionModel, *, teacher: bool = False) -> Any:
    """Return what captions read of the clean images, computed once per step for all objectives."""

    def run() -> Any:
        tokens = forward.image(teacher=teacher).tokens
        return model.image_memory(forward.weights(teacher), tokens)

    return forward.once(("image_memory", teacher), run)


def dropout_key(forward: Forward, model: FusionModel, name: str) -> Array | None:
    """Return the key of a student's pass through the fusion encoder; None for a model without dropout."""
    return forward.stream(f"dropout/{name}") if model.text_dropout else None
