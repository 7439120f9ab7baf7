"""A run of the model over all batches of an evaluation set; each process reads its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from timix_jax.data.loading.share import Share
from timix_jax.distributed import processes
from timix_jax.errors import RunError, UserError
from timix_jax.evaluators.placement import place_share
from timix_jax.parallel.mesh import replicated

Arrays = dict[str, jax.Array]
Compute = Callable[[Any, Arrays], Arrays]

CARRIED = ("index", "valid", "more", "failed")
"""Fields of a batch returned with its results, for the rows that other processes read."""


def jitted(compute: Compute, mesh: Mesh) -> Compute:
    """Jit `compute(params, batch)` for `sweep`; its results, by name, are replicated on every device."""

    def step(params: Any, batch: Arrays) -> Arrays:
        return {name: batch[name] for name in CARRIED} | compute(params, batch)

    return jax.jit(step, out_shardings=replicated(mesh))


def sweep(
    step: Compute,
    params: Any,
    batches: Iterator[Mapping[str, np.ndarray]],
    share: Share,
    mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the results of every batch on all processes; devices work on one while the next is read.

    Args:
      step: from `jitted`.
      params: of the model, on the mesh.
      batches: those of this process, at least one, with index int32 (b,) and valid bool (b,); their number may
        differ between processes.
      share: of this process, see `own_share`.
      mesh: all devices.

    Yields:
      What `step` returns, (B, ...) each, with index (B,) and valid (B,) of the rows.

    Raises:
      UserError: a batch of one process cannot be read; raised on all, so that none waits for it.
    """
    before: Arrays | None = None
    reader = _Reader(batches)
    batch = processes.together(reader.first)
    go_on = True
    while go_on:
        following = reader.next()
        failed = reader.error is not None
        rows = len(batch["valid"])
        flags = {
            "more": np.full(rows, following is not None or failed),
            "failed": np.full(rows, failed),
        }
        results = step(params, place_share({**batch, **flags}, share, mesh))
        if before is not None:
            yield reader.on_host(before)
        before = results
        # Every process must take the same number of steps. One with batches left knows that all continue; one without
        # learns from the rows of the others. After an error all take one step more, at whose end they all know of it.
        go_on = following is not None or failed or bool(np.any(results["more"]))
        batch = following or {**batch, "valid": np.zeros_like(batch["valid"])}
    if before is not None:
        yield reader.on_host(before)


class _Reader:
    """The batches of this process, and the error that ended them."""

    def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
        self._batches = batches
        self.error: UserError | None = None

    def first(self) -> Mapping[str, np.ndarray]:
        """Return the first batch; there is at least one."""
        batch = self.next()
        if self.error is not None:
            raise self.error
        assert batch is not None, "there is at least one batch"
        return batch

    def next(self) -> Mapping[str, np.ndarray] | None:
        """Return the next batch; None after the last one and after an error, which is kept."""
        try:
            return None if self.error else next(self._batches, None)
        except UserError as error:
            self.error = error
        except OSError as error:
            self.error = RunError(f"the evaluation set cannot be read ({error})")
            self.error.__cause__ = error
        return None

    def on_host(self, results: Arrays) -> dict[str, np.ndarray]:
        """Return results as NumPy, or raise on all processes the error of the one that has one."""
        host = {name: np.asarray(value) for name, value in results.items()}
        if np.any(host["failed"]):
            processes.together(self._raise)
        return host

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error
