"""What a fusion encoder reads of a whole data source: the states of all images and captions, on the host."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.data.loading.evaluation import caption_batches, image_batches
from timix_jax.evaluators.placement import divisible, own_share
from timix_jax.evaluators.sweep import Arrays, jitted, sweep
from timix_jax.runtime.machine import check_fits_memory

if TYPE_CHECKING:
    from timix_jax.evaluators.base import EvaluationInputs


class ImageStates(NamedTuple):
    """All images in the order of the source.

    Attributes:
      embedding: float32 (N, D).
      tokens: (N, S, C) final tokens in the model's dtype.
    """

    embedding: np.ndarray
    tokens: np.ndarray


class CaptionStates(NamedTuple):
    """All captions in the order of the source.

    Attributes:
      embedding: float32 (M, D).
      states: (M, T, C) last hidden states in the model's dtype.
      mask: (M, T) bool, False for padding.
      tokens: int32 (M, T).
      owner: int32 (M,) the image of each.
    """

    embedding: np.ndarray
    states: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray
    owner: np.ndarray


@dataclasses.dataclass(frozen=True)
class StateReader:
    """Both towers over a whole data source; the results are the same on every process.

    Attributes:
      inputs: the model, the source and how it is read.
      purpose: used in error messages, such as `reranked`.
    """

    inputs: EvaluationInputs
    purpose: str

    def images(self, params: Any) -> ImageStates:
        """Encode all images.

        Raises:
          UserError: their tokens exceed memory, or an image is corrupt.
        """
        count = len(self.inputs.source)
        found: dict[str, np.ndarray] = {}
        for encoded in self._swept(params, self._image_batches(), self._encode_images):
            valid, index = encoded["valid"], encoded["index"]
            for name in ImageStates._fields:
                rows = encoded[name]
                if name not in found:
                    self._check_memory(count, rows, "images")
                    found[name] = np.zeros((count, *rows.shape[1:]), rows.dtype)
                found[name][index[valid]] = rows[valid]
        return ImageStates(**found)

    def captions(self, params: Any) -> CaptionStates:
        """Encode all captions.

        Raises:
          UserError: there are none, or their states exceed memory.
        """
        parts: dict[str, list[np.ndarray]] = {}
        for encoded in self._swept(params, self._caption_batches(), self._encode_captions):
            if not parts:
                self._check_memory(len(self.inputs.source), encoded["states"], "captions")
            for name in CaptionStates._fields:
                rows = encoded["index" if name == "owner" else name]
                parts.setdefault(name, []).append(rows[encoded["valid"]])
        whole = {name: np.concatenate(rows) for name, rows in parts.items()}
        # Each device had examples of its own; the captions of one example are in order.
        order = np.argsort(whole["owner"], kind="stable")
        return CaptionStates(**{name: rows[order] for name, rows in whole.items()})

    def _check_memory(self, count: int, rows: np.ndarray, what: str) -> None:
        # Twice: as batches and joined.
        check_fits_memory(
            2 * count * rows[0].nbytes,
            f"{self.purpose} on {self.inputs.source.name}: states of {count} examples' {what}",
        )

    def _swept(self, params: Any, batches: Iterator[Any], step: Any) -> Iterator[dict[str, Any]]:
        mesh = self.inputs.mesh
        return sweep(step, params, batches, own_share(mesh), mesh)

    @property
    def _batch_size(self) -> int:
        return divisible(self.inputs.batch_size, self.inputs.mesh)

    def _image_batches(self) -> Iterator[Any]:
        i = self.inputs
        share = own_share(i.mesh)
        return image_batches(
            i.source, image_size=i.image_size, batch_size=self._batch_size, share=share
        )

    def _caption_batches(self) -> Iterator[Any]:
        i = self.inputs
        return caption_batches(
            i.source,
            i.tokenizer,
            max_tokens=i.max_tokens,
            batch_size=self._batch_size,
            share=own_share(i.mesh),
        )

    @functools.cached_property
    def _encode_images(self) -> Any:
        model = self.inputs.model

        def encode(params: Any, batch: Arrays) -> Arrays:
            image = model.encode_image(params, model.embed_patches(params, batch["image"]))
            return {"embedding": image.embedding, "tokens": image.tokens}

        return jitted(encode, self.inputs.mesh)

    @functools.cached_property
    def _encode_captions(self) -> Any:
        model = self.inputs.model

        def encode(params: Any, batch: Arrays) -> Arrays:
            text = model.encode_text(params, batch["tokens"])
            return {
                "embedding": text.embedding,
                "states": text.tokens,
                "mask": jnp.asarray(text.mask),
                "tokens": batch["tokens"],
            }

        return jitted(encode, self.inputs.mesh)


def rows_on_mesh(
    arrays: dict[str, np.ndarray], index: np.ndarray, sharding: jax.sharding.NamedSharding
) -> dict[str, jax.Array]:
    """Place rows of host arrays, equal on every process, as global arrays."""

    def put(array: np.ndarray) -> jax.Array:
        shape = (*index.shape, *array.shape[1:])

        def part(where: Any) -> np.ndarray:
            rows: np.ndarray = array[index[where[0]]]
            return rows

        return jax.make_array_from_callback(shape, sharding, part)

    return {name: put(array) for name, array in arrays.items()}
