"""Heat maps: how well each patch of an image fits a text, by a score source of `mix.score`."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from timix_jax.errors import UserError
from timix_jax.models.protocols import (
    ImageTextModel,
    PatchPredicting,
    PatchProjecting,
    SinglePatchEncoding,
)
from timix_jax.objectives.base import prepare_forward
from timix_jax.objectives.features import CLEAN
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.objectives.score_sources.reader import ScoreReader
from timix_jax.parallel.mesh import replicated

NEED_TRAINING_INPUTS = ("posterior", "random", "oracle", "clutter", "ema:", "shuffled:")


def default_source(model: ImageTextModel, *, predictor_trained: bool) -> str:
    """Return the first score source that a model has: `single_patch`, `tpp` if trained, `similarity`.

    `single_patch` comes first because it depends most on the text (see the evaluator `patch_scores`).

    Raises:
      UserError: it has none of them.
    """
    if isinstance(model, SinglePatchEncoding):
        return "single_patch"
    if predictor_trained and isinstance(model, PatchPredicting):
        return "tpp"
    if isinstance(model, PatchProjecting):
        return "similarity"
    raise UserError(
        f"{type(model).__name__} has no scores of patches: heat maps need encode_single_patches or project_patches"
    )


class HeatMaps:
    """Patch scores of pairs of an image and a text.

    Args:
      model: its pure functions.
      params: replicated over `mesh`.
      mesh: devices of this process, over which the pairs are split.
      source: a score source as `mix.score` names it.

    Raises:
      UserError: the source is unknown, needs what only training has, or the model lacks what it reads.
    """

    def __init__(self, model: ImageTextModel, params: Any, mesh: Mesh, source: str) -> None:
        if any(text in source for text in NEED_TRAINING_INPUTS):
            raise UserError(
                f"source={source!r} needs inputs of the training; use tpp, single_patch or similarity"
            )
        built = build_score_source(source, model)
        self._params, self._grid = params, model.grid

        def score(
            params: Any, pixels: jax.Array, tokens: jax.Array, caption_mean: jax.Array
        ) -> jax.Array:
            forward = prepare_forward(
                model,
                [ScoreReader((built,))],
                params,
                {"image": pixels, "tokens": tokens, "caption_mean": caption_mean},
                step=jnp.zeros((), jnp.int32),
                seed_key=jax.random.key(0),
            )
            return built(forward, CLEAN)

        self._score = jax.jit(score, out_shardings=replicated(mesh))

    def __call__(
        self, pixels: jax.Array, tokens: jax.Array, caption_mean: np.ndarray
    ) -> np.ndarray:
        """Score placed pairs: float32 (B, g, g), z-scores over the patches of each image."""
        scores = np.asarray(self._score(self._params, pixels, tokens, caption_mean), np.float32)
        return scores.reshape(-1, self._grid, self._grid)


def resized(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate scores (g, g) linearly to (height, width); the centres of patches keep their values."""
    height, width = size
    if height < 1 or width < 1:
        raise UserError(f"size={size}: give (height, width) in pixels, each at least 1")
    return cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def reference_texts() -> tuple[str, ...]:
    """Return plain captions of anything; what their embeddings share says nothing about one text.

    `single_patch` subtracts the mean caption (docs/method.md §2), which a single text does not have.
    """
    things = (
        *("person", "dog", "car", "house", "tree", "flower", "chair", "boat", "bird", "cup"),
        *("book", "street", "beach", "mountain", "table", "fruit", "ball", "train", "sign", "sky"),
    )
    templates = ("a photo of a {}", "a {}", "two {}s and something else")
    return tuple(template.format(thing) for template in templates for thing in things)
