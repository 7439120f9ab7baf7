"""A run of the model over all batches of an evaluation set; each process reads its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from timix_jax.data.loading.share import Share
from timix_jax.evaluators.placement import place_share
from timix_jax.parallel.mesh import replicated

Arrays = dict[str, jax.Array]
Compute = Callable[[Any, Arrays], Arrays]

CARRIED = ("index", "valid", "more")
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
    """
    before: Arrays | None = None
    batch = next(batches)
    go_on = True
    while go_on:
        following = next(batches, None)
        more = np.full(len(batch["valid"]), following is not None)
        results = step(params, place_share({**batch, "more": more}, share, mesh))
        if before is not None:
            yield _on_host(before)
        before = results
        # Every process must take the same number of steps. One with batches left knows that all continue; one without
        # learns from the rows of the others.
        go_on = following is not None or bool(np.any(results["more"]))
        batch = following or {**batch, "valid": np.zeros_like(batch["valid"])}
    if before is not None:
        yield _on_host(before)


def _on_host(results: Arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in results.items()}
