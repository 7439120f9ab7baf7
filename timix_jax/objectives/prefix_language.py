"""Prefix language modelling (PrefixLM, docs/method.md §5): the decoder tells a caption from image and first words."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

from timix_jax.errors import UserError
from timix_jax.models.generative_protocols import GenerativeModel
from timix_jax.models.protocols import ImageTextModel, require
from timix_jax.objectives.base import INTERNAL, Array, Objective, Term
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.fusion import dropout_key, image_memory, words_read, words_term
from timix_jax.objectives.views.base import View
from timix_jax.objectives.views.prefix import Prefixes
from timix_jax.objectives.vocabulary import NOMINAL, Vocabulary
from timix_jax.objectives.word_loss import Logits, word_loss
from timix_jax.optim.schedule import linear_ramp


@dataclasses.dataclass(frozen=True)
class PrefixLanguage(Objective):
    """Cross-entropy of the tokens after a random prefix, per token of the global batch, [SEP] included.

    Attributes:
      alpha: final weight α of the teacher's distribution over the vocabulary in the targets.
      alpha_steps: α ramps 0 → alpha over this many steps.
      empty_prefix: share of the captions that are told from the first word on, as captions are generated; 0 in the
        paper, where both parts have a word.
      chunk: positions per caption whose logits exist at a time; 0 for all.
      vocabulary: the tokenizer's ids.
    """

    alpha: float = 0.0
    alpha_steps: int = 0
    empty_prefix: float = 0.0
    chunk: int = 0
    vocabulary: Vocabulary = dataclasses.field(default=NOMINAL, metadata=INTERNAL)

    name: ClassVar[str] = "plm"

    def __post_init__(self) -> None:
        """Check the shares, and that texts have a start."""
        for field in ("alpha", "empty_prefix"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"plm.{field}={getattr(self, field)} is not a share: use 0 to 1")
        if self.chunk < 0:
            raise UserError(f"plm.chunk={self.chunk}: give a number of tokens, or 0 for all")
        if self.vocabulary.start_id is None:
            raise UserError(
                "plm needs texts that begin with [CLS], which the vocabulary lacks: set its weight to 0, or"
                " config.data.tokenizer to a vocabulary with [CLS]"
            )

    @functools.cached_property
    def view(self) -> Prefixes:
        """The view of the captions' first words."""
        return Prefixes(self.vocabulary, self.empty_prefix)

    @property
    def views(self) -> Sequence[View]:
        """The view of the captions' first words."""
        return (self.view,)

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the clean images and the prefixes, and with α > 0 the teacher's too.

        Raises:
          UserError: the model has no decoder.
        """
        require(model, GenerativeModel, f"config.loss.{self.name}")
        return words_read(self.view.name, teacher=self.alpha > 0)

    def __call__(self, forward: Forward) -> Term:
        """Return the loss per token; log accuracy, and perplexity as a cross-entropy in nats."""
        model = require(forward.model, GenerativeModel, f"config.loss.{self.name}")
        split = self.view.draw(forward)

        def read(teacher: bool) -> tuple[Logits, Array]:
            """Return the decoder's head, and its states (B, T, C)."""
            states = self._decoded(forward, model, split.rest, teacher)
            return functools.partial(model.decoder_logits, forward.weights(teacher)), states

        alpha = self.alpha * linear_ramp(forward.step, self.alpha_steps) if self.alpha else 0.0
        sums = word_loss(
            *read(False),
            split.labels,
            split.counted,
            alpha=alpha,
            teacher=read(True) if self.alpha else None,
            chunk=self.chunk,
        )
        return words_term(self.name, sums)

    def _decoded(
        self, forward: Forward, model: GenerativeModel, rest: Array, teacher: bool
    ) -> Array:
        params = forward.weights(teacher)
        text = forward.text(self.view.name, teacher=teacher)
        memory = image_memory(forward, model, teacher=teacher)
        keys = (
            None if teacher else dropout_key(forward, model, name) for name in ("plm", "decoder")
        )
        fused = model.fuse(params, text.tokens, text.mask, memory, key=next(keys))
        read = model.decoder_memory(params, fused, text.mask)
        return model.decode(params, rest, read, key=next(keys))
