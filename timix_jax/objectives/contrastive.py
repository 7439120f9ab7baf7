"""Image-text contrastive loss (ITC, paper §5) over the global batch, with optional momentum distillation."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Array, Forward, Objective
from timix_jax.objectives.pairs.pair_loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.similarities import Similarities, similarities
from timix_jax.objectives.passes import Batch, Pass
from timix_jax.optim.schedule import linear_ramp


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
    """Each image against its own caption; with `alpha` > 0 targets lean on the moving-average teacher's predictions.

    Attributes:
      alpha: final weight α of the teacher's prediction in the targets.
      alpha_steps: α ramps 0 → alpha over this many steps.
      pairs: the loss over all pairs: symmetric InfoNCE by default.
    """

    weight: float = 1.0
    alpha: float = 0.0
    alpha_steps: int = 0
    pairs: PairLoss = DENSE_SOFTMAX

    name: ClassVar[str] = "itc"
    needs_clean: ClassVar[bool] = True
    gives_way: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the range of α."""
        if not 0 <= self.alpha <= 1:
            raise UserError(f"itc.alpha={self.alpha} is not a weight: use 0 to 1")

    def passes(self, model: DualEncoder, batch: Batch) -> Sequence[Pass]:
        """The similarities; with α also the teacher's, from its own pass over both towers."""
        rows, tokens = batch["tokens"].shape
        student = Pass(rows=rows, compared=rows)
        if not self.alpha:
            return (student,)
        teacher = Pass(
            rows=rows,
            gradient=False,
            stem=True,
            blocks=model.image.depth,
            projected=True,
            text_tokens=tokens,
            compared=rows,
        )
        return student, teacher

    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """Loss of the clean batch and its in-batch accuracy (both directions, ties count as misses)."""
        if forward.image is None:
            raise UserError("the contrastive objective needs the clean images' features")
        s = similarities(model, forward, forward.image.embedding)
        if self.alpha and forward.teacher is None:
            raise UserError("itc.alpha needs a teacher: set optim.ema above 0 (the paper: 0.995)")
        if self.alpha:
            alpha = self.alpha * linear_ramp(forward.step, self.alpha_steps)
            teacher = _teacher_similarities(model, forward, s)
            loss, hits = self.pairs.distilled(s, teacher, alpha)
        else:
            loss, hits = self.pairs.plain(s)
        log = {"batch_accuracy": jnp.mean(hits)}
        return loss, log if s.bias is None else log | {"logit_bias": s.bias}


def _teacher_similarities(model: DualEncoder, forward: Forward, s: Similarities) -> Similarities:
    teacher = jax.lax.stop_gradient(forward.teacher)
    patches = model.embed_patches(teacher, forward.batch["image"])
    image = model.encode_patches(teacher, patches).embedding
    text = model.encode_text(teacher, forward.batch["tokens"]).embedding
    # The student's own temperature (and bias): the released schedule scales both by one τ.
    return s._replace(image=image, text=text).constant()
