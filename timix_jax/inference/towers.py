"""Both towers on all devices of this process, in batches of a few fixed shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from timix_jax.evaluators.placement import divisible, pad_rows, place, split_over_all
from timix_jax.models.protocols import ImageTextModel
from timix_jax.parallel.mesh import replicated

SMALL = 8  # rows of the smaller shape, for a few images or texts


class Towers:
    """Embeds rows of pixels or tokens; one program per tower and batch shape, of which there are two.

    Args:
      model: its pure functions, for parameters that are whole on each device.
      params: replicated over `mesh`.
      mesh: devices of this process, over which a batch is split.
      batch_size: rows of a full batch; rounded up to a multiple of the number of devices.
    """

    def __init__(self, model: ImageTextModel, params: Any, mesh: Mesh, batch_size: int) -> None:
        self._params, self._mesh = params, mesh
        self.batch_size = divisible(batch_size, mesh)
        self._small = min(divisible(SMALL, mesh), self.batch_size)

        def image(params: Any, pixels: jax.Array) -> jax.Array:
            return model.encode_image(params, model.embed_patches(params, pixels)).embedding

        def text(params: Any, tokens: jax.Array) -> jax.Array:
            return model.encode_text(params, tokens).embedding

        self._image = jax.jit(image, out_shardings=replicated(mesh))
        self._text = jax.jit(text, out_shardings=replicated(mesh))

    def images(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embed batches of uint8 (b, S, S, 3), b ≤ `batch_size`: float32 (b, D) each, in order."""
        return self._run(self._image, batches)

    def texts(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embed batches of int32 (b, T), b ≤ `batch_size`: float32 (b, D) each, in order."""
        return self._run(self._text, batches)

    def _run(
        self, program: Callable[..., jax.Array], batches: Iterable[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Yield results; the devices work on one batch while the next is read."""
        before: tuple[jax.Array, int] | None = None
        for batch in batches:
            started = program(self._params, self.placed(batch)), len(batch)
            if before is not None:
                yield _on_host(*before)
            before = started
        if before is not None:
            yield _on_host(*before)

    def placed(self, rows: np.ndarray) -> jax.Array:
        """Pad rows to the smallest of the fixed shapes and split them over the devices."""
        size = self._small if len(rows) <= self._small else self.batch_size
        return place(pad_rows(rows, size), self._sharding)

    @functools.cached_property
    def _sharding(self) -> Any:
        return split_over_all(self._mesh)


def _on_host(results: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(results)[:rows].astype(np.float32)
