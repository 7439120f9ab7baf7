"""A part of a source: its first examples, or one of several equal blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from timix_jax.data.records.schema import Record
from timix_jax.errors import UserError

if TYPE_CHECKING:
    from timix_jax.data.sources import Source

PART_OPTIONS = ("first", "block")
"""Options that every kind of source has: `first=N`, its first N examples, and `block=K/M`, the K-th of M blocks."""


class PartialSource:
    """The examples `start` to `stop` of a source."""

    def __init__(self, source: Source, start: int, stop: int, name: str) -> None:
        """Take a part; `name` says which in messages."""
        self.source, self.start, self.stop = source, start, stop
        self.name = f"{source.name}?{name}"
        digest = getattr(source, "digest", "")
        self.digest = f"{digest}[{start}:{stop}]" if digest else ""

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Record:
        """Record `index` of the part. Raises CorruptExample if it cannot be used."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)}")
        return self.source[self.start + index]

    @property
    def annotated(self) -> np.ndarray:
        """int64 (A,) indices of the examples whose regions the trainer sees."""
        every = self.source.annotated
        return every[(every >= self.start) & (every < self.stop)] - self.start


def take_part(source: Source, options: dict[str, str]) -> Source:
    """Return the part that the options name; `first` applies before `block`.

    Raises:
      UserError: a value that is no number or asks for more than the source has.
    """
    for name, text in options.items():
        start, stop = _bounds(source, name, text)
        source = PartialSource(source, start, stop, f"{name}={text}")
    return source


def _bounds(source: Source, name: str, text: str) -> tuple[int, int]:
    count = len(source)
    if name == "first":
        if not (text.isdecimal() and 1 <= int(text) <= count):
            raise UserError(f"{source.name}: first={text}; give a number from 1 to {count}")
        return 0, int(text)
    block, _, blocks = text.partition("/")
    if not (block.isdecimal() and blocks.isdecimal() and int(block) < int(blocks) <= count):
        raise UserError(
            f"{source.name}: block={text}; write K/M, the K-th of M blocks, with 0 <= K < M <= {count}"
        )
    return tuple(count * (int(block) + more) // int(blocks) for more in (0, 1))  # type: ignore[return-value]
