"""Image-to-text and text-to-image recall over a whole data source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from timix_jax.data.evaluation import caption_batches, image_batches
from timix_jax.data.memory import check_fits_memory
from timix_jax.errors import UserError
from timix_jax.evaluators.placement import batch_sharding, divisible, place, replicated
from timix_jax.evaluators.ranks import Ranks, retrieval_ranks

if TYPE_CHECKING:
    from timix_jax.data.sources import Source
    from timix_jax.data.tokenizers import Tokenizer
    from timix_jax.models.dual_encoder import DualEncoder

RECALL_AT = (1, 5, 10)


def chance_recall(candidates: int, positives: np.ndarray, k: int) -> float:
    """Expected R@k of a random order: the mean over queries of 1 - C(M-c, k) / C(M, k).

    ``candidates`` = M; ``positives`` int (Q,) = c, how many of them are right for each query.
    """
    counts, weights = np.unique(positives, return_counts=True)
    drawn = np.arange(min(k, candidates))
    miss = np.prod(
        np.clip(candidates - counts[:, None] - drawn, 0, None) / (candidates - drawn), axis=1
    )
    return float(np.average(1.0 - miss, weights=weights))


def recall_metrics(ranks: Ranks, image_index: np.ndarray) -> dict[str, float]:
    """R@1/5/10 both ways, their mean and their chance levels, as fractions.

    Images without captions are no queries of i2t, but stay candidates of t2i. ``image_index`` is
    int (M,), the image of each caption.
    """
    captions = np.bincount(image_index, minlength=len(ranks.i2t))
    i2t = ranks.i2t[captions > 0]
    metrics = {f"i2t_r{k}": float(np.mean(i2t < k)) for k in RECALL_AT}
    metrics |= {f"t2i_r{k}": float(np.mean(ranks.t2i < k)) for k in RECALL_AT}
    metrics["mean_recall"] = float(np.mean(list(metrics.values())))
    one = np.ones(1, np.int64)
    for k in RECALL_AT:
        metrics[f"i2t_chance_r{k}"] = chance_recall(len(image_index), captions[captions > 0], k)
        metrics[f"t2i_chance_r{k}"] = chance_recall(len(ranks.i2t), one, k)
    return metrics


class RetrievalEvaluator:
    """R@1/5/10 both ways on every image and caption of ``source`` (see :func:`build_evaluator`).

    Example:
      evaluator = RetrievalEvaluator(model=model, source=source, tokenizer=tokenizer, mesh=mesh,
                                     image_size=64, max_tokens=24, batch_size=128)
      evaluator.run(params)["i2t_r1"]
    """

    def __init__(
        self,
        *,
        model: DualEncoder,
        source: Source,
        tokenizer: Tokenizer,
        mesh: Mesh,
        image_size: int,
        max_tokens: int,
        batch_size: int,
    ) -> None:
        """Compiles nothing yet; raises UserError for a source that is empty or does not fit into memory."""
        if len(source) == 0:
            raise UserError(
                f"Evaluation set {source.name!r} is empty: "
                "retrieval needs at least one image with a caption."
            )
        self._source, self._tokenizer, self._mesh = source, tokenizer, mesh
        self._image_size, self._max_tokens = image_size, max_tokens
        self._batch_size = divisible(batch_size, mesh)
        # At the least a caption an image: refused now, and not after hours of training.
        self._check_memory(model.embed_dim, captions_an_image=1)

        def encode_images(params: Any, images: jax.Array) -> jax.Array:
            return model.encode_patches(params, model.embed_patches(params, images)).embedding

        def encode_texts(params: Any, tokens: jax.Array) -> jax.Array:
            return model.encode_text(params, tokens).embedding

        # Inputs carry their sharding; outputs are whole, so that every process can read them.
        self._encode_images = jax.jit(encode_images, out_shardings=replicated(mesh))
        self._encode_texts = jax.jit(encode_texts, out_shardings=replicated(mesh))

    def run(self, params: Any) -> dict[str, float]:
        """Recall of ``params`` (on the mesh): i2t_r1 ... t2i_r10, mean_recall, and chance levels.

        Raises:
          UserError: the embeddings do not fit into memory, or an example is corrupt.
        """
        texts, image_index = self._texts(params)
        images = self._images(params, dim=texts.shape[1])
        ranks = retrieval_ranks(images, texts, image_index, self._mesh)
        return recall_metrics(ranks, image_index)

    def _texts(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float32 (M,D) of every caption; int32 (M,), the image of each."""
        batches = caption_batches(
            self._source,
            self._tokenizer,
            max_tokens=self._max_tokens,
            batch_size=self._batch_size,
        )
        texts: list[np.ndarray] = []
        image_index: list[np.ndarray] = []
        for encoded, batch in self._encoded(self._encode_texts, params, batches, "tokens"):
            if not texts:
                captions = batch["image_index"][batch["valid"]]
                self._check_memory(encoded.shape[1], len(captions) / len(np.unique(captions)))
            texts.append(encoded[batch["valid"]])
            image_index.append(batch["image_index"][batch["valid"]])
        return np.concatenate(texts), np.concatenate(image_index)

    def _images(self, params: Any, dim: int) -> np.ndarray:
        """Embeddings float32 (N,D) in the order of the source."""
        batches = image_batches(
            self._source, image_size=self._image_size, batch_size=self._batch_size
        )
        # An image that the batches left out would be a miss.
        images = np.full((len(self._source), dim), np.nan, np.float32)
        for encoded, batch in self._encoded(self._encode_images, params, batches, "image"):
            images[batch["index"][batch["valid"]]] = encoded[batch["valid"]]
        return images

    def _check_memory(self, dim: int, captions_an_image: float) -> None:
        images = len(self._source)
        captions = int(images * captions_an_image)
        # Three copies at the most: as batches, in one piece, on the devices.
        check_fits_memory(
            3 * 4 * dim * (images + captions),
            f"Retrieval on {self._source.name}: {images} images and about {captions} captions",
        )

    def _encoded(
        self,
        encode: Callable[[Any, jax.Array], jax.Array],
        params: Any,
        batches: Iterable[Mapping[str, np.ndarray]],
        field: str,
    ) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
        """(embeddings (b,D), batch) pairs; the devices work on one while the last one is read."""
        sharding = batch_sharding(self._mesh)
        before: tuple[jax.Array, Mapping[str, np.ndarray]] | None = None
        for batch in batches:
            embeddings = encode(params, place(batch[field], sharding))
            if before is not None:
                yield np.asarray(before[0]), before[1]
            before = embeddings, batch
        if before is not None:
            yield np.asarray(before[0]), before[1]
