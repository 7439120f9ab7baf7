"""Captions of images by a loaded model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from timix_jax.data.tokenizers import Tokenizer
from timix_jax.decoding import LengthPenalty, Search, caption_search, caption_text, write_captions
from timix_jax.errors import UserError
from timix_jax.models.generative_protocols import GenerativeModel
from timix_jax.models.protocols import ImageTextModel, require
from timix_jax.parallel.mesh import replicated


class Caption(NamedTuple):
    """A caption and how probable the model finds it.

    Attributes:
      text: prefix and continuation.
      score: log-probability of the continuation over the length penalty, by which captions are ranked.
      logp: log-probability of the continuation, that of its end included.
    """

    text: str
    score: float
    logp: float


class Captioner:
    """Writes captions of placed batches; one program per search and shape.

    Args:
      model: its pure functions.
      params: replicated over `mesh`.
      mesh: devices of this process, over which the images are split.
      tokenizer: the one that the model was trained with.

    Raises:
      UserError: the model has no decoder.
    """

    def __init__(
        self, model: ImageTextModel, params: Any, mesh: Mesh, tokenizer: Tokenizer
    ) -> None:
        self._model = require(model, GenerativeModel, "caption()")
        self._params, self._tokenizer = params, tokenizer

        def write(params: Any, images: jax.Array, prefix: jax.Array, search: Search) -> Any:
            return write_captions(self._model, params, images, prefix, search)

        self._write = jax.jit(write, static_argnames="search", out_shardings=replicated(mesh))

    def search(
        self, num: int, beams: int, lengths: tuple[int, int], penalty: tuple[str, float]
    ) -> Search:
        """Return the search for `num` captions per image; `lengths` are the least and the most tokens."""
        if not 1 <= num <= beams:
            raise UserError(f"num={num}: give 1 to {beams} captions, as many as there are beams")
        return caption_search(
            self._tokenizer,
            self._model,
            beams=beams,
            min_tokens=lengths[0],
            max_tokens=lengths[1],
            penalty=LengthPenalty(*penalty),
        )

    def __call__(
        self, pixels: jax.Array, prefix: jax.Array, search: Search, rows: np.ndarray
    ) -> list[list[Caption]]:
        """Return the captions of each image, best first.

        Args:
          pixels: (B, S, S, 3), placed.
          prefix: int32 (B, P), placed.
          search: from `search`.
          rows: int32 (b, P) the prefix of each image that is wanted, the first ones of the batch.
        """
        found = jax.tree.map(np.asarray, self._write(self._params, pixels, prefix, search))
        return [
            [
                Caption(caption_text(self._tokenizer, prefix, tokens), float(score), float(logp))
                for tokens, score, logp in zip(*beams, strict=True)
                if np.isfinite(score)
            ]
            for prefix, *beams in zip(rows, *found, strict=False)
        ]
