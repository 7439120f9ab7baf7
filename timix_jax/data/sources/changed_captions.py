"""A source whose examples have fewer captions, or those of other examples: for experiments on scarce or noisy text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from timix_jax.data.records.schema import CorruptExample, Record, Region
from timix_jax.errors import UserError

if TYPE_CHECKING:
    from timix_jax.data.sources import Source

CAPTION_OPTIONS = ("max_captions", "wrong_captions")
"""Options that every kind of source has: `max_captions=N` per example, and `wrong_captions=P`, a share P."""

_ORDER = 0  # seed of the order in which examples get wrong captions: the same in every run


class ChangedCaptions:
    """The examples of a source, of which some have the captions of another one.

    With a larger share, those that are wrong with a smaller one are wrong too. An image that gets other captions keeps
    its regions, which no caption mentions then. If the other example is corrupt, the own captions stay.
    """

    def __init__(self, source: Source, name: str, *, most: int | None, wrong: float) -> None:
        """Change the captions.

        Args:
          source: the source.
          name: what follows its name in messages.
          most: captions per example that are kept, the first ones; None for all.
          wrong: share of the examples that exchange their captions, in a ring.
        """
        self.source, self.name = source, f"{source.name}?{name}"
        digest = getattr(source, "digest", "")
        self.digest = f"{digest}[{name}]" if digest else ""
        self._most = most
        order = np.random.default_rng(_ORDER).permutation(len(source))
        chosen = order[: round(wrong * len(source))]
        self._giver = np.arange(len(source))
        self._giver[chosen] = np.roll(chosen, 1)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        """Record `index`. Raises CorruptExample if it cannot be used."""
        record, giver = self.source[index], int(self._giver[index])
        if giver != index:
            record = self._with_captions_of(record, giver)
        kept = record.captions[: self._most]
        regions = tuple(
            Region(r.text, r.box, tuple(k for k in r.captions if k < len(kept)))
            for r in record.regions
        )
        return Record(record.key, record.image, kept, regions)

    def _with_captions_of(self, record: Record, giver: int) -> Record:
        try:
            captions = self.source[giver].captions
        except CorruptExample:
            return record
        regions = tuple(Region(region.text, region.box) for region in record.regions)
        return Record(record.key, record.image, captions, regions)

    @property
    def annotated(self) -> np.ndarray:
        """int64 (A,) indices of the examples whose regions the trainer sees."""
        return self.source.annotated


def change_captions(source: Source, options: dict[str, str]) -> Source:
    """Return the source with the captions that the options ask for.

    Raises:
      UserError: a value that is no number or out of range.
    """
    if not options:
        return source
    most, wrong = options.get("max_captions"), options.get("wrong_captions", "0")
    if most is not None and not (most.isdecimal() and int(most) >= 1):
        raise UserError(f"{source.name}: max_captions={most}; give a number of at least 1")
    share = _share(wrong)
    if share is None:
        raise UserError(f"{source.name}: wrong_captions={wrong}; give a share from 0 to 1")
    name = "&".join(f"{option}={value}" for option, value in options.items())
    return ChangedCaptions(source, name, most=None if most is None else int(most), wrong=share)


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None
