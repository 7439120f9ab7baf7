"""Batches on the devices, a step ahead."""

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from timix_jax.parallel.mesh import put_batch


class DeviceBatches:
    """The batches of `count` steps as arrays on `mesh`: one is on its way while a step works on the one before.

    A GPU begins a transfer when all work that was sent to it before is done: a batch that is sent behind the last step
    would hold up its own. So the batch of step s + 1 is sent before step s. The first alone comes without the second,
    as a run begins with its compilation.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], mesh: Mesh, count: int) -> None:
        """
        Args:
          batches: this process's part of each batch, with `example_id`; no more than `count` are taken.
        """
        self._batches, self._mesh, self._left = batches, mesh, count
        self._sent: collections.deque[tuple[np.ndarray, dict[str, Any]]] = collections.deque()
        self._wanted = 1

    def __iter__(self) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[np.ndarray, dict[str, Any]]:
        """(example_id (b,) of this process, global arrays of the other fields)."""
        while self._left and len(self._sent) < self._wanted:
            batch = dict(next(self._batches))
            self._sent.append((batch.pop("example_id"), put_batch(batch, self._mesh)))
            self._left -= 1
        self._wanted = 2
        if not self._sent:
            raise StopIteration
        return self._sent.popleft()
