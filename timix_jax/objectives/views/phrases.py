"""One phrase of each caption, another draw in every step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from timix_jax.mixing.fraction import select_rows, take_rows
from timix_jax.mixing.phrases import draw_phrases
from timix_jax.objectives.views.base import Inputs, View

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward


@dataclasses.dataclass(frozen=True)
class PhrasesOf(View):
    """Evenly spaced rows of the clean batch, each with one phrase of its caption in place of the caption.

    Attributes:
      separators: token ids between phrases.
      fraction: share of the batch; 1 for all rows.
    """

    separators: tuple[int, ...]
    fraction: float = 1.0

    name: ClassVar[str] = "phrases"
    has_own_images: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Draw the phrases."""
        tokens = forward.batch["tokens"]
        rows = None if self.fraction == 1 else select_rows(len(tokens), self.fraction)
        if rows is not None:
            tokens = take_rows(tokens, rows)
        key = forward.stream("phrases")
        return Inputs(
            rows=rows, tokens=draw_phrases(key, tokens, self.separators, forward.model.pad_id)
        )
