"""The annotated images with the texts of their regions, a batch of their own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from timix_jax.objectives.views.base import Inputs, View

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

REGIONS = "regions"


@dataclasses.dataclass(frozen=True)
class RegionView(View):
    """`batch["regions"]`: P images, and their P·R texts in rows."""

    name: ClassVar[str] = REGIONS

    def make(self, forward: Forward) -> Inputs:
        """Flatten the texts (P, R, T) to rows (P·R, T)."""
        regions = forward.batch["regions"]
        tokens = regions["tokens"]
        return Inputs(images=regions["image"], tokens=tokens.reshape(-1, tokens.shape[-1]))
