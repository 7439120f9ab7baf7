"""Cross-modal CutMix (VLMixer, arXiv 2206.08919; docs/method.md §5): captions that show regions in place of words."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.protocols import ImageTextModel, WordReplacing, require
from timix_jax.objectives.base import INTERNAL, Objective, Term
from timix_jax.objectives.contrastive import similarities
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.views.base import View
from timix_jax.objectives.views.region_words import READER, RegionWords
from timix_jax.objectives.vocabulary import NOMINAL, Vocabulary


@dataclasses.dataclass(frozen=True)
class CrossModalCutMix(Objective):
    """Captions in which regions of the batch stand for some names, against their images and their plain captions.

    Attributes:
      rate: share of the names that are replaced, of those that a region of the batch has.
      pairs: the loss over all pairs, at the model's temperature.
      vocabulary: the tokenizer's ids.
    """

    rate: float = 0.5
    pairs: PairLoss = dataclasses.field(default=DENSE_SOFTMAX, metadata=INTERNAL)
    vocabulary: Vocabulary = dataclasses.field(default=NOMINAL, metadata=INTERNAL)

    name: ClassVar[str] = "cmc"
    reads_regions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the rate."""
        if not 0 <= self.rate <= 1:
            raise UserError(f"cmc.rate={self.rate} is not a share of the names: use 0 to 1")

    @functools.cached_property
    def view(self) -> RegionWords:
        """The view of captions that show regions."""
        return RegionWords(self.vocabulary, self.rate)

    @property
    def views(self) -> Sequence[View]:
        """The view of captions that show regions."""
        return (self.view,)

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the clean images, and the captions with and without regions.

        Raises:
          UserError: the model's text tower cannot read patches.
        """
        require(model, WordReplacing, READER)
        return [Feature("image"), Feature("text"), Feature("text", self.view.name)]

    def __call__(self, forward: Forward) -> Term:
        """Return the mean of both losses; log the accuracy among images, and the shares that are replaced."""
        drawn, vocabulary = self.view.draw(forward), self.vocabulary
        images = similarities(forward, self.view.name)
        captions = images._replace(image=forward.text().embedding)
        (by_image, hits), (by_caption, _) = map(self.pairs.plain, (images, captions))
        words = jnp.sum(vocabulary.is_word(forward.batch["tokens"]))
        log = {
            "cmc_accuracy": jnp.mean(hits),
            "cmc_words": jnp.sum(drawn.at) / jnp.maximum(words, 1),
            "cmc_captions": jnp.mean(drawn.at.any(axis=1)),
        }
        return Term((by_image + by_caption) / 2, log)
