"""Embeddings of all images and captions of a data source; each process reads its share."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from timix_jax.data.loading.evaluation import caption_batches, image_batches
from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.evaluators.placement import divisible, own_share
from timix_jax.evaluators.sweep import Arrays, Compute, jitted, sweep
from timix_jax.runtime.machine import check_fits_memory

if TYPE_CHECKING:
    from timix_jax.data.sources import Source
    from timix_jax.evaluators.base import EvaluationInputs


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Both towers over a whole data source.

    Attributes:
      inputs: the model, the source and how it is read.
      purpose: what the embeddings are for, used in error messages, such as `retrieval`.
    """

    inputs: EvaluationInputs
    purpose: str

    def images(self, params: Any) -> np.ndarray:
        """Embed all images: float32 (N, D) in the order of the source, the same on every process."""
        mesh = self.inputs.mesh
        share = own_share(mesh)
        batches = image_batches(
            self.inputs.source,
            image_size=self.inputs.image_size,
            batch_size=divisible(self.inputs.batch_size, mesh),
            share=share,
        )
        images: np.ndarray | None = None
        for encoded in sweep(self._encode_images, params, batches, share, mesh):
            if images is None:
                # NaN, so that an image missing from the batches counts as a miss.
                shape = len(self.inputs.source), encoded["embedding"].shape[1]
                images = np.full(shape, np.nan, np.float32)
            valid = encoded["valid"]
            images[encoded["index"][valid]] = encoded["embedding"][valid]
        assert images is not None, "a source has at least one batch"
        return images

    def captions(self, params: Any, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Embed every caption of `source` in its order: float32 (M, D), and the example of each, int32 (M,).

        Raises:
          UserError: the source has no captions, or the embeddings exceed memory.
        """
        mesh = self.inputs.mesh
        share = own_share(mesh)
        batches = caption_batches(
            source,
            self.inputs.tokenizer,
            max_tokens=self.inputs.max_tokens,
            batch_size=divisible(self.inputs.batch_size, mesh),
            share=share,
        )
        texts: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        for encoded in sweep(self._encode_texts, params, batches, share, mesh):
            captioned = encoded["index"][encoded["valid"]]
            if not texts:
                if not len(captioned):
                    raise UserError(
                        f"Evaluation set {source.name!r} has no captions: "
                        f"{self.purpose} needs at least one, so leave the evaluator out."
                    )
                per_example = len(captioned) / len(np.unique(captioned))
                expected = round(per_example * len(source))
                # Machines may have different amounts of memory free.
                processes.together(lambda count=expected: self.check_memory(count))  # type: ignore[misc]
            texts.append(encoded["embedding"][encoded["valid"]])
            owners.append(captioned)
        owner = np.concatenate(owners)
        # Each device had examples of its own; the captions of one example are in order.
        order = np.argsort(owner, kind="stable")
        return np.concatenate(texts)[order], owner[order]

    def check_memory(self, captions: int) -> None:
        """Raise a UserError unless the embeddings of all images and of `captions` captions fit into memory."""
        images = len(self.inputs.source)
        # At most three copies: as batches, concatenated, and on the devices.
        check_fits_memory(
            3 * 4 * self.inputs.model.embed_dim * (images + captions),
            f"{self.purpose.capitalize()} on {self.inputs.source.name}: {images} images and about {captions} captions",
        )

    @functools.cached_property
    def _encode_images(self) -> Compute:
        model = self.inputs.model

        def encode(params: Any, batch: Arrays) -> Arrays:
            patches = model.embed_patches(params, batch["image"])
            return {"embedding": model.encode_image(params, patches).embedding}

        return jitted(encode, self.inputs.mesh)

    @functools.cached_property
    def _encode_texts(self) -> Compute:
        model = self.inputs.model

        def encode(params: Any, batch: Arrays) -> Arrays:
            return {"embedding": model.encode_text(params, batch["tokens"]).embedding}

        return jitted(encode, self.inputs.mesh)
