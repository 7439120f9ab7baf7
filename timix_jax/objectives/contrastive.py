"""Image-text contrastive loss (ITC, docs/method.md §5) over the global batch, with optional momentum distillation."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.base import INTERNAL, Array, Objective, Term
from timix_jax.objectives.features import CLEAN, Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.targets import Hard, Target
from timix_jax.objectives.views.base import View
from timix_jax.optim.schedule import linear_ramp


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
    """Each image against its own caption; with `alpha` > 0 the targets include the predictions of the teacher.

    Attributes:
      alpha: final weight α of the teacher's prediction in the targets.
      alpha_steps: α ramps 0 → alpha over this many steps.
      view: view whose images and captions are compared; None for the clean batch.
      target: target for a view whose images show several captions.
      pairs: the loss over all pairs: symmetric InfoNCE by default.
    """

    alpha: float = 0.0
    alpha_steps: int = 0
    view: View | None = dataclasses.field(default=None, metadata=INTERNAL)
    target: Target = dataclasses.field(default=Hard(), metadata=INTERNAL)
    pairs: PairLoss = dataclasses.field(default=DENSE_SOFTMAX, metadata=INTERNAL)

    name: ClassVar[str] = "itc"

    def __post_init__(self) -> None:
        """Check the range of α."""
        if not 0 <= self.alpha <= 1:
            raise UserError(f"itc.alpha={self.alpha} is not a weight: use 0 to 1")

    @property
    def views(self) -> Sequence[View]:
        """The view, unless it is the clean batch."""
        return () if self.view is None else (self.view,)

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return both embeddings, and with α > 0 the teacher's too."""
        del model
        view = CLEAN if self.view is None else self.view.name
        reads = [Feature("image", view), Feature("text", view)]
        if self.alpha:
            reads += [Feature("image", view, teacher=True), Feature("text", view, teacher=True)]
        return reads

    def __call__(self, forward: Forward) -> Term:
        """Return the loss and, for a clean batch, the accuracy (both directions; ties count as misses)."""
        view = CLEAN if self.view is None else self.view.name
        s = similarities(forward, view)
        log: dict[str, Array] = {} if s.bias is None else {"logit_bias": s.bias}
        shares = forward.view(view).shares
        if shares is not None:
            return Term(self.pairs.mixed(s, self.target, shares), log)
        if self.alpha:
            alpha = self.alpha * linear_ramp(forward.step, self.alpha_steps)
            # The student's own temperature (and bias): the released schedule scales both by one τ.
            teacher = s._replace(
                image=forward.image(view, teacher=True).embedding,
                text=forward.text(view, teacher=True).embedding,
            )
            loss, hits = self.pairs.distilled(s, teacher, alpha)
        else:
            loss, hits = self.pairs.plain(s)
        return Term(loss, {"batch_accuracy": jnp.mean(hits), **log})


def similarities(forward: Forward, view: str = CLEAN) -> Similarities:
    """Return the similarities between a view's images and its captions."""
    image, text = forward.embeddings(view)
    model, params = forward.model, forward.params
    return Similarities(image, text, model.temperature(params), model.logit_bias(params))
