"""Masked language modelling (MLM, docs/method.md §5): hidden words are told from the caption and the image."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.base import INTERNAL, Array, Objective, Term
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.fusion import (
    dropout_key,
    fusion_model,
    image_memory,
    words_read,
    words_term,
)
from timix_jax.objectives.views.base import View
from timix_jax.objectives.views.masked import MaskedWords
from timix_jax.objectives.vocabulary import NOMINAL, Vocabulary
from timix_jax.objectives.word_loss import Logits, word_loss
from timix_jax.optim.schedule import linear_ramp


@dataclasses.dataclass(frozen=True)
class MaskedLanguage(Objective):
    """Cross-entropy of hidden words, per hidden word of the global batch.

    Attributes:
      rate: share of the words that is hidden; of these 80% become [MASK], 10% another word, and 10% stay.
      most: largest share of a caption's positions that is hidden, so that shapes are static.
      alpha: final weight α of the teacher's distribution over the vocabulary in the targets.
      alpha_steps: α ramps 0 → alpha over this many steps.
      chunk: hidden words per caption whose logits exist at a time; 0 for all.
      vocabulary: the tokenizer's ids.
    """

    rate: float = 0.15
    most: float = 0.3
    alpha: float = 0.0
    alpha_steps: int = 0
    chunk: int = 0
    vocabulary: Vocabulary = dataclasses.field(default=NOMINAL, metadata=INTERNAL)

    name: ClassVar[str] = "mlm"

    def __post_init__(self) -> None:
        """Check the shares, and that the vocabulary can hide words."""
        for field, low in (("rate", False), ("most", False), ("alpha", True)):
            value = getattr(self, field)
            if not (0 <= value <= 1 and (low or value > 0)):
                least = "0 to 1" if low else "more than 0, at most 1"
                raise UserError(f"mlm.{field}={value} is not a share: use {least}")
        if self.chunk < 0:
            raise UserError(f"mlm.chunk={self.chunk}: give a number of words, or 0 for all")
        self.vocabulary.require_mask(self.name)

    @functools.cached_property
    def view(self) -> MaskedWords:
        """The view of captions with hidden words."""
        return MaskedWords(self.vocabulary, self.rate, self.most)

    @property
    def views(self) -> Sequence[View]:
        """The view of captions with hidden words."""
        return (self.view,)

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the clean images and the masked captions, and with α > 0 the teacher's too.

        Raises:
          UserError: the model has no fusion encoder.
        """
        fusion_model(model, self.name)
        return words_read(self.view.name, teacher=self.alpha > 0)

    def __call__(self, forward: Forward) -> Term:
        """Return the loss per hidden word; log accuracy, and perplexity as a cross-entropy in nats."""
        model = fusion_model(forward.model, self.name)
        masked = self.view.draw(forward)

        def read(teacher: bool) -> tuple[Logits, Array]:
            """Return the head over the vocabulary, and the states (B, P, C) at the hidden words."""
            states = self._fused(forward, model, teacher)
            at = jnp.take_along_axis(states, masked.positions[..., None], axis=1)
            return functools.partial(model.word_logits, forward.weights(teacher)), at

        alpha = self.alpha * linear_ramp(forward.step, self.alpha_steps) if self.alpha else 0.0
        sums = word_loss(
            *read(False),
            masked.labels,
            masked.counted,
            alpha=alpha,
            teacher=read(True) if self.alpha else None,
            chunk=self.chunk,
        )
        return words_term(self.name, sums)

    def _fused(self, forward: Forward, model: FusionModel, teacher: bool) -> Array:
        text = forward.text(self.view.name, teacher=teacher)
        key = None if teacher else dropout_key(forward, model, "mlm")
        memory = image_memory(forward, model, teacher=teacher)
        return model.fuse(forward.weights(teacher), text.tokens, text.mask, memory, key=key).text
