"""What objectives over images and captions together share: the model's ability, memory, words read and logged."""

from typing import Any

import jax
import jax.numpy as jnp

from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import ImageTextModel, require
from timix_jax.objectives.base import Term
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.word_loss import WordLoss

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


def words_read(view: str, *, teacher: bool) -> list[Feature]:
    """Return what telling words of a view's captions reads: clean images and captions, also the teacher's if asked."""
    whose = (False, True) if teacher else (False,)
    return [f for of in whose for f in (Feature("image", teacher=of), Feature("text", view, of))]


def words_term(name: str, sums: WordLoss) -> Term:
    """Return the loss per word; log accuracy, and perplexity as a cross-entropy in nats."""
    count = jnp.maximum(sums.count, 1)
    return Term(
        sums.mean(), {f"{name}_accuracy": sums.hits / count, f"{name}_nats": sums.hard / count}
    )
