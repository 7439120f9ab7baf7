"""The interface of a source of patch scores."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from timix_jax.mixing import scores
from timix_jax.models.protocols import ImageTextModel, TextFeatures
from timix_jax.objectives.features import Feature

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ScoreSource(abc.ABC):
    """Scores the relevance of each patch to the caption; no gradient flows through a source.

    Attributes:
      teacher: read the moving average of the weights instead of the student.
      shuffled: read another image's caption: a control, since scores that do not read the text lose nothing by it.
    """

    teacher: bool = False
    shuffled: bool = False

    name: ClassVar[str]
    trained: ClassVar[str] = ""
    """Name of the objective that trains the scores; empty if they need no training of their own."""
    reads_text: ClassVar[bool] = True
    """False for scores that are the same for every caption."""

    @property
    def title(self) -> str:
        """The source as `mix.score` names it."""
        return f"{'ema:' * self.teacher}{'shuffled:' * self.shuffled}{self.name}"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the features of a view that `__call__` reads; none by default.

        Raises:
          UserError: the model lacks something that the source needs.
        """
        del model, view
        return ()

    @abc.abstractmethod
    def __call__(self, forward: Forward, view: str) -> Array:
        """Return scores (n, N) float32, higher for patches that matter more to the caption."""

    def text_feature(self, view: str) -> Feature:
        """Return the feature that `text` reads."""
        return Feature("text", view, self.teacher, dropout=False, gradient=False)

    def text(self, forward: Forward, view: str) -> TextFeatures:
        """Return the captions as constants, one for each image; with `shuffled` that of the next row."""
        text = forward.text(view, teacher=self.teacher, dropout=False)
        text = jax.lax.stop_gradient(text)
        return jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), text) if self.shuffled else text

    def centred_caption(self, forward: Forward, view: str) -> Array:
        """Return the captions' embeddings (n, D) without what they have in common.

        `batch["caption_mean"]` (D,), which an evaluation of a whole set gives, takes the place of the batch's mean.
        """
        embedding = self.text(forward, view).embedding
        return scores.centred(embedding, forward.batch.get("caption_mean"))

    def weights(self, forward: Forward) -> object:
        """Return the parameters as constants."""
        return jax.lax.stop_gradient(forward.weights(self.teacher))
