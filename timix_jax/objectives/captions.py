"""Several captions of an image as several positives (`config.loss.captions`)."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.base import INTERNAL, Objective, Term
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.views.base import View
from timix_jax.objectives.views.captions import CAPTIONS, CaptionView


@dataclasses.dataclass(frozen=True)
class MoreCaptions(Objective):
    """The contrastive loss of the images with further captions of their own, averaged over these.

    The k-th captions of all images are one set of candidates, so that no caption is a negative of its own image. With
    `weight` = `count`, each further caption counts as much as the one that ITC compares.

    Attributes:
      count: further captions per image and step, drawn without repetition where an image has enough.
      pairs: the loss over all pairs.
    """

    count: int = 1
    pairs: PairLoss = dataclasses.field(default=DENSE_SOFTMAX, metadata=INTERNAL)

    name: ClassVar[str] = CAPTIONS
    views: ClassVar[Sequence[View]] = (CaptionView(),)

    def __post_init__(self) -> None:
        """Check the number of captions."""
        if self.count < 1:
            raise UserError(f"captions.count={self.count}: give at least 1, or weight 0")

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the embeddings of the clean images and of the further captions."""
        del model
        return [Feature("image"), Feature("text", CAPTIONS)]

    def __call__(self, forward: Forward) -> Term:
        """Return the mean loss, and the accuracy as ITC's."""
        image, texts = forward.image().embedding, forward.text(CAPTIONS).embedding
        texts = texts.reshape(len(image), -1, texts.shape[-1])
        model, params = forward.model, forward.params
        temperature, bias = model.temperature(params), model.logit_bias(params)
        found = [
            self.pairs.plain(Similarities(image, texts[:, k], temperature, bias))
            for k in range(texts.shape[1])
        ]
        loss = sum(loss for loss, _ in found) / len(found)
        hits = jnp.mean(jnp.stack([hits for _, hits in found]))
        return Term(jnp.asarray(loss), {"captions_accuracy": hits})
