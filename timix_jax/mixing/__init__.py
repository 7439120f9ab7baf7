"""Mixing on the device, under jit: TiMix, its rivals, and their windows, partners and patch scores.

A new mixer is one file with a frozen dataclass that follows `base.Mixer`, and one line in `MIXERS`; its fields become
`config.mix.options.NAME`. Imports errors only.
"""

import dataclasses
from typing import Any

from timix_jax.errors import UserError
from timix_jax.mixing.base import (
    LabelsByAttention,
    Mixed,
    Mixer,
    MixesFeatures,
    MixesNegatives,
    MixesText,
    Sample,
    composes_captions,
)
from timix_jax.mixing.captions_alone import CaptionsAlone
from timix_jax.mixing.clip_c import ClipC
from timix_jax.mixing.coin_flip import CoinFlip
from timix_jax.mixing.cutmix import CutMix
from timix_jax.mixing.geodesic import Geodesic
from timix_jax.mixing.hidden_text import HiddenText
from timix_jax.mixing.joined import JoinedCaptions, with_captions
from timix_jax.mixing.mixgen import MixGen
from timix_jax.mixing.mixup import Mixup
from timix_jax.mixing.packing import Packing
from timix_jax.mixing.patchmix import PatchMix
from timix_jax.mixing.random_window import RandomWindow
from timix_jax.mixing.relevant_patches import RelevantPatches
from timix_jax.mixing.smmix import SMMix
from timix_jax.mixing.timix import TiMix
from timix_jax.mixing.tokenmix import TokenMix
from timix_jax.mixing.transmix import TransMix

__all__ = [
    "MIXERS",
    "CaptionsAlone",
    "ClipC",
    "CoinFlip",
    "CutMix",
    "Geodesic",
    "HiddenText",
    "JoinedCaptions",
    "LabelsByAttention",
    "MixGen",
    "Mixed",
    "Mixer",
    "MixesFeatures",
    "MixesNegatives",
    "MixesText",
    "Mixup",
    "Packing",
    "PatchMix",
    "RandomWindow",
    "RelevantPatches",
    "SMMix",
    "Sample",
    "TiMix",
    "TokenMix",
    "TransMix",
    "build_mixer",
    "composes_captions",
    "with_captions",
]

MIXERS: dict[str, type | None] = {
    "none": None,
    "timix": TiMix,
    "random_window": RandomWindow,
    "cutmix": CutMix,
    "mixup": Mixup,
    "mixgen": MixGen,
    "clip_c": ClipC,
    "coin_flip": CoinFlip,
    "hidden_text": HiddenText,
    "geodesic": Geodesic,
    "smmix": SMMix,
    "transmix": TransMix,
    "tokenmix": TokenMix,
    "patchmix": PatchMix,
    "relevant_patches": RelevantPatches,
    "packing": Packing,
    "captions_alone": CaptionsAlone,
}


def build_mixer(name: str, /, *, grid: int, shards: int = 1, **options: Any) -> Mixer | None:
    """Build the mixer with this name; "none" gives None.

    Args:
      name: a key of `MIXERS`.
      grid: patches per side, for mixers with a field `grid`.
      shards: number of devices that hold the batch, for mixers with a field `shards`.
      **options: fields of the mixer's class, such as `low=0.35` or `alpha=1.0`.

    Raises:
      UserError: the name or an option is unknown (the message lists the valid ones), or a value is out of range.

    **Example:**

        mixer = build_mixer("timix", grid=14, partner="derangement")
    """
    if name not in MIXERS:
        raise UserError(f"mixer {name!r} is unknown; use one of {', '.join(MIXERS)}")
    kind = MIXERS[name]
    known = [] if kind is None else [field.name for field in dataclasses.fields(kind)]
    given = {"grid": grid, "shards": shards}
    valid = [option for option in known if option not in given]
    unknown = [option for option in options if option not in valid]
    if unknown:
        raise UserError(
            f"mixer {name!r} has no option {unknown[0]!r}; "
            f"its options: {', '.join(valid) or 'none'}"
        )
    if kind is None:
        return None
    return kind(**{field: value for field, value in given.items() if field in known}, **options)
