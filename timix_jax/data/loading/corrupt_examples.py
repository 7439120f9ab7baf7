"""The corrupt examples that a run has met: counted, named in the log, replaced by others."""

import math
import threading
from typing import Any

from absl import logging

_NAMED = 5  # of a source that are logged by name; then at 10, 100, 1000, …


class CorruptExamples:
    """The corrupt examples met so far, by source. Shared by the loader's threads; a pickled copy starts empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, dict[int, str]] = {}
        self._new: list[tuple[str, int, str]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return CorruptExamples, ()

    def add(self, source: str, index: int, reason: str) -> None:
        """Notes an example; the first ones are named in the log, the others counted."""
        with self._lock:
            found = self._found.setdefault(source, {})
            if index in found:
                return
            found[index] = reason
            self._new.append((source, index, reason))
            count = len(found)
        if count <= _NAMED or math.log10(count).is_integer():
            logging.warning(
                "%s: corrupt example replaced by the next one (%d so far): %s",
                source,
                count,
                reason,
            )

    def take_new(self) -> list[tuple[str, int, str]]:
        """Source name, index and reason of those noted since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def reason(self, source: str, index: int) -> str | None:
        """What is wrong with an example that was found corrupt before."""
        return self._found.get(source, {}).get(index)

    @property
    def counts(self) -> dict[str, int]:
        """Number of different corrupt examples by source name."""
        with self._lock:
            return {name: len(found) for name, found in self._found.items()}
