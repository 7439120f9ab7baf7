"""Match scores of chosen pairs: captions of one image are scored together, sharing its keys and values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from timix_jax.evaluators.fusion_states import CaptionStates, ImageStates, rows_on_mesh
from timix_jax.evaluators.placement import divisible, split_over_all
from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import require
from timix_jax.parallel.mesh import replicated

if TYPE_CHECKING:
    from timix_jax.evaluators.base import EvaluationInputs

GROUP = 8
"""Captions per row of a batch, all of one image."""


@dataclasses.dataclass(frozen=True)
class MatchScores:
    """Scores of pairs by the model's fusion encoder.

    Attributes:
      inputs: the model, the mesh and the batch size.
    """

    inputs: EvaluationInputs

    def __call__(
        self,
        params: Any,
        images: ImageStates,
        captions: CaptionStates,
        image: np.ndarray,
        caption: np.ndarray,
    ) -> np.ndarray:
        """Return the log-odds float32 (K,) that caption `caption[k]` belongs to image `image[k]`.

        That is the difference of the two logits: training determines no other combination of them.
        """
        mesh = self.inputs.mesh
        split = split_over_all(mesh)
        rows = divisible(max(1, self.inputs.batch_size // GROUP), mesh)
        order, row_image, row_captions, place = _grouped(image, caption)
        pad = -len(row_image) % rows
        row_image = np.pad(row_image, (0, pad))
        row_captions = np.pad(row_captions, ((0, pad), (0, 0)))
        tokens = {"tokens": images.tokens}
        texts = {"states": captions.states, "mask": captions.mask}
        found = []
        before: jax.Array | None = None
        for start in range(0, len(row_image), rows):
            part = slice(start, start + rows)
            batch = rows_on_mesh(tokens, row_image[part], split)
            batch |= rows_on_mesh(texts, row_captions[part], split)
            scored = self._score(params, batch)
            if before is not None:
                found.append(np.asarray(before))  # the devices are busy with the next part
            before = scored
        if before is not None:
            found.append(np.asarray(before))
        scores = np.empty(len(image), np.float32)
        scores[order] = np.concatenate(found).reshape(-1)[place]
        return scores

    @functools.cached_property
    def _score(self) -> Callable[..., jax.Array]:
        model = require(self.inputs.model, FusionModel, "evaluator 'reranked'")

        def score(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            states, mask = (
                batch[name].reshape(-1, *batch[name].shape[2:]) for name in ("states", "mask")
            )
            memory = model.image_memory(params, batch["tokens"])
            logits = model.itm_logits(params, model.fuse(params, states, mask, memory).text)
            return (logits[:, 1] - logits[:, 0]).reshape(len(batch["tokens"]), -1)

        return jax.jit(score, out_shardings=replicated(self.inputs.mesh))


def _grouped(
    image: np.ndarray, caption: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arrange pairs in rows of one image and up to `GROUP` captions.

    Returns:
      order (K,) of the pairs by image; the image (R,) and captions (R, GROUP) of each row, padded with caption 0; and
      the place (K,) in the flattened rows of each pair in that order.
    """
    order = np.argsort(image, kind="stable")
    image, caption = image[order], caption[order]
    first = np.searchsorted(image, image)  # where the pairs of the same image start
    number = np.arange(len(image)) - first
    starts_row = number % GROUP == 0
    row = np.cumsum(starts_row) - 1
    rows = np.zeros((int(starts_row.sum()), GROUP), np.int64)
    rows[row, number % GROUP] = caption
    return order, image[starts_row], rows, row * GROUP + number % GROUP
