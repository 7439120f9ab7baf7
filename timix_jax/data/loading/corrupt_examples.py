"""The corrupt examples found by a run: counted, and named in the log."""

import math
import threading
from typing import Any

from absl import logging

_LOGGED = 5  # examples logged per source; beyond that only number 10, 100, 1000, …


class CorruptExamples:
    """The corrupt examples found so far, by source.

    Shared by the loader's threads; a pickled copy starts empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, dict[int, str]] = {}
        self._new: list[tuple[str, int, str]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return CorruptExamples, ()

    def add(self, source: str, index: int, reason: str) -> None:
        """Record an example; only the first few per source are logged."""
        with self._lock:
            found = self._found.setdefault(source, {})
            if index in found:
                return
            found[index] = reason
            self._new.append((source, index, reason))
            count = len(found)
        if count <= _LOGGED or math.log10(count).is_integer():
            logging.warning(
                "%s: corrupt example replaced by the next one (%d so far): %s",
                source,
                count,
                reason,
            )

    def take_new(self) -> list[tuple[str, int, str]]:
        """Return source name, index and reason of the examples added since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def reason(self, source: str, index: int) -> str | None:
        """Return why an example was found corrupt earlier, or None."""
        return self._found.get(source, {}).get(index)

    @property
    def counts(self) -> dict[str, int]:
        """Number of distinct corrupt examples by source name."""
        with self._lock:
            return {name: len(found) for name, found in self._found.items()}
