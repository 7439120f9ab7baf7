"""The source `slow:…`: synthetic examples that take READ_MS milliseconds each, to catch a run while it runs.

Reading fails after READ_FAILS_AFTER examples, if that is set; the example `corrupt` cannot be read.
"""

import itertools
import os
import time

from timix_jax.data.records.schema import CorruptExample, Record
from timix_jax.data.sources import SOURCES
from timix_jax.data.sources.synthetic import open_synthetic

SOURCES["slow"] = "slow_source:open_slow"


class SlowSource:
    def __init__(self, source, corrupt=-1):
        self._corrupt = corrupt
        self._source, self.name, self.annotated = source, f"slow {source.name}", source.annotated
        self._wait_s = float(os.environ.get("READ_MS", "0")) / 1000
        self._fails_after = float(os.environ.get("READ_FAILS_AFTER", "inf"))
        self._count = itertools.count(1)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        time.sleep(self._wait_s)
        if next(self._count) > self._fails_after:
            raise ZeroDivisionError("a bug in the reader")
        if index == self._corrupt:
            raise CorruptExample(f"example-{index}", "damaged")
        return self._source[index]


def open_slow(
    argument: str,
    *,
    examples: int = 48,
    size: int = 16,
    captions: int = 2,
    seed: int = 0,
    corrupt: int = -1,
) -> SlowSource:
    source = open_synthetic(argument, examples=examples, size=size, captions=captions, seed=seed)
    return SlowSource(source, corrupt)
