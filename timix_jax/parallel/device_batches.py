"""Transfer batches to the devices one step ahead."""

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from timix_jax.parallel.mesh import put_batch


class DeviceBatches:
    """Iterate over the batches of `count` steps as arrays on `mesh`; each is sent while the previous step runs.

    A GPU starts a transfer only after all work queued before it, so a batch sent after step s would delay step s + 1.
    The batch of step s + 1 is therefore sent before step s is queued. Only the first batch is sent without its
    successor, because the first step starts with its compilation.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], mesh: Mesh, count: int) -> None:
        """
        Args:
          batches: this process's part of each batch, with `example_id`; at most `count` are read.
        """
        self._batches, self._mesh, self._remaining = batches, mesh, count
        self._sent: collections.deque[tuple[np.ndarray, dict[str, Any]]] = collections.deque()
        self._depth = 1

    def __iter__(self) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Return this process's example_id (b,) and the other fields as global arrays."""
        while self._remaining and len(self._sent) < self._depth:
            batch = dict(next(self._batches))
            self._sent.append((batch.pop("example_id"), put_batch(batch, self._mesh)))
            self._remaining -= 1
        self._depth = 2
        if not self._sent:
            raise StopIteration
        return self._sent.popleft()
