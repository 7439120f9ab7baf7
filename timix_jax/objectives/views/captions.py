"""Further captions of the images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from timix_jax.objectives.views.base import Inputs, View

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

CAPTIONS = "captions"


@dataclasses.dataclass(frozen=True)
class CaptionView(View):
    """`batch["captions"]`: K further captions of each of the B images, one per row."""

    name: ClassVar[str] = CAPTIONS

    @property
    def has_own_images(self) -> bool:
        """False: the images are those of the clean batch."""
        return False

    def make(self, forward: Forward) -> Inputs:
        """Flatten the captions (B, K, T) into rows (B·K, T)."""
        tokens = forward.batch[CAPTIONS]
        return Inputs(tokens=tokens.reshape(-1, tokens.shape[-1]))
