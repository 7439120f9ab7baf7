"""Image-text contrastive loss (ITC, paper §5) over the global batch, with optional momentum distillation."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Array, Forward
from timix_jax.objectives.soft_cross_entropy import soft_contrastive, symmetric_contrastive
from timix_jax.schedule import linear_ramp


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """Symmetric InfoNCE; with ``alpha`` > 0 the targets lean on the moving-average teacher's similarities.

    Attributes:
      alpha: final weight α of the teacher's softmax in the targets.
      alpha_steps: α ramps 0 → alpha over this many steps.
    """

    weight: float = 1.0
    alpha: float = 0.0
    alpha_steps: int = 0

    name: ClassVar[str] = "itc"
    needs_clean: ClassVar[bool] = True
    capture: ClassVar[int | None] = None
    ends_at: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        """Checks the range of α."""
        if not 0 <= self.alpha <= 1:
            raise UserError(f"itc.alpha={self.alpha} is not a weight: use 0 to 1")

    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """Loss of the clean batch and its in-batch accuracy (both directions, ties count as misses)."""
        if forward.image is None:
            raise UserError("the contrastive objective needs the clean images' features")
        logits = image_text_logits(model, forward, forward.image.embedding)
        if self.alpha and forward.teacher is None:
            raise UserError("itc.alpha needs a teacher: set optim.ema above 0 (the paper: 0.995)")
        if self.alpha:
            alpha = self.alpha * linear_ramp(forward.step, self.alpha_steps)
            teacher = _teacher_logits(model, forward)
            eye = jnp.eye(logits.shape[0], dtype=logits.dtype)
            i2t = alpha * jax.nn.softmax(teacher) + (1 - alpha) * eye
            t2i = alpha * jax.nn.softmax(teacher.T) + (1 - alpha) * eye
            loss = soft_contrastive(logits, i2t, t2i)
        else:
            loss = symmetric_contrastive(logits)
        own = jnp.diag(logits)
        best = jnp.maximum(
            jnp.max(jnp.where(jnp.eye(len(own), dtype=bool), -jnp.inf, logits), axis=1),
            jnp.max(jnp.where(jnp.eye(len(own), dtype=bool), -jnp.inf, logits), axis=0),
        )
        return loss, {"batch_accuracy": jnp.mean(own > best)}


def image_text_logits(model: DualEncoder, forward: Forward, image: Array) -> Array:
    """image · text / τ, (B,B): rows are images, columns are captions."""
    return image @ forward.text.embedding.T / model.temperature(forward.params)


def _teacher_logits(model: DualEncoder, forward: Forward) -> Array:
    teacher = jax.lax.stop_gradient(forward.teacher)
    patches = model.embed_patches(teacher, forward.batch["image"])
    image = model.encode_patches(teacher, patches).embedding
    text = model.encode_text(teacher, forward.batch["tokens"]).embedding
    # The student's own temperature: the released schedule scales both by one τ.
    logits = image @ text.T / jax.lax.stop_gradient(model.temperature(forward.params))
    return jax.lax.stop_gradient(logits)
