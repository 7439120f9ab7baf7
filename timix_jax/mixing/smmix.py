"""SMMix (arXiv 2212.12977): TiMix's windows, chosen by the attention of [CLS] instead of by the caption."""

import dataclasses
from typing import ClassVar

from timix_jax.mixing.timix import TiMix


@dataclasses.dataclass(frozen=True)
class SMMix(TiMix):
    """Max–min attention region mixing: the partner's most attended window over the least attended one.

    SMMix trains on the hard label and on the mixed prediction of the clean images, L = CE(hard) + CE(pred):
    `mix.target="blend"`, `mix.beta=0.5` and `mix.weight=2`. Its loss of single regions' features has no counterpart
    here.

    Attributes:
      low: smallest side of the window, as a share of the image's side.
    """

    low: float = 0.25

    scored_by: ClassVar[str] = "attention"
    """The one score source that the method is defined for."""
