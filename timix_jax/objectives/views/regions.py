"""The annotated images and the texts of their regions, as a separate batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from timix_jax.objectives.views.base import Inputs, View

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

REGIONS = "regions"


@dataclasses.dataclass(frozen=True)
class RegionView(View):
    """`batch["regions"]`: P images and their P·R texts, one per row."""

    name: ClassVar[str] = REGIONS

    def make(self, forward: Forward) -> Inputs:
        """Flatten the texts (P, R, T) into rows (P·R, T)."""
        regions = forward.batch["regions"]
        tokens = regions["tokens"]
        return Inputs(images=regions["image"], tokens=tokens.reshape(-1, tokens.shape[-1]))
