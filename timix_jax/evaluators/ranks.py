"""Retrieval ranks with several captions per image, from a similarity matrix computed in blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from timix_jax.evaluators.placement import divisible, pad_rows, place, split_over_all
from timix_jax.parallel.mesh import replicated

MISS = np.iinfo(np.int32).max
"""The rank of a query whose positives have no similarity (NaN): beyond every k."""

TIE = 1e-6
"""Cosines closer than this are tied. Products of equal embeddings differ in the last bits by their
place in the matrix: without a margin, a collapsed model would win ties by rounding."""

NO_IMAGE = -1
"""Image index of a padded row."""


class Ranks(NamedTuple):
    """0-based ranks: int32 (N,) of each image's best caption; (M,) of each caption's image."""

    i2t: np.ndarray
    t2i: np.ndarray


def positive_similarity(
    images: np.ndarray, texts: np.ndarray, image_index: np.ndarray, rows: int = 65536
) -> np.ndarray:
    """Return the cosine of each caption with its own image, float32 (M,), `rows` captions at a time."""
    parts = [
        np.einsum(
            "md,md->m", texts[m : m + rows], images[image_index[m : m + rows]], dtype=np.float64
        )
        for m in range(0, len(texts), rows)
    ]
    return np.concatenate(parts).astype(np.float32)


def _count_ahead(
    queries: jax.Array,
    query_image: jax.Array,
    positive: jax.Array,
    candidates: jax.Array,
    candidate_image: jax.Array,
) -> jax.Array:
    """Count the candidates of other images that are not clearly below the positive: int32 (q,).

    queries (q, D), query_image (q,), positive (q,);
    candidates (blocks, c, D), candidate_image (blocks, c).
    """

    def block(count: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        embeddings, image = inputs
        # HIGHEST: accelerators multiply in bfloat16 or TF32 by default, in steps wider than TIE.
        similarity = jnp.matmul(queries, embeddings.T, precision=jax.lax.Precision.HIGHEST)
        # Not (s < p) instead of s >= p: a NaN similarity is then ahead of the positive.
        ahead = ~(similarity < positive[:, None] - TIE)
        other = (image[None] != query_image[:, None]) & (image[None] != NO_IMAGE)
        return count + jnp.sum(ahead & other, axis=1, dtype=jnp.int32), None

    start = jnp.zeros_like(query_image)
    return jax.lax.scan(block, start, (candidates, candidate_image))[0]


@functools.cache
def _jitted_count_ahead(mesh: Mesh) -> Callable[..., jax.Array]:
    """Jit the count with queries split over the mesh and candidates replicated."""
    split, whole = split_over_all(mesh), replicated(mesh)
    return jax.jit(
        _count_ahead, in_shardings=(split, split, split, whole, whole), out_shardings=whole
    )


def ranks_one_way(
    queries: np.ndarray,
    query_image: np.ndarray,
    positive: np.ndarray,
    candidates: np.ndarray,
    candidate_image: np.ndarray,
    mesh: Mesh,
    block: int,
) -> np.ndarray:
    """Rank each query's positive among the candidates of other images: 0-based int32 (q,).

    Args:
      queries: float32 (q, D), unit norm.
      query_image: int32 (q,), the image (or whatever else owns it) of each query.
      positive: float32 (q,), the similarity of each query to its best own candidate.
      candidates: float32 (c, D), unit norm.
      candidate_image: int32 (c,), as `query_image`; not negative.
      mesh: queries are split over its devices.
      block: rows and columns of the similarity matrix computed at a time.

    Returns:
      Ties within `TIE` count against the positive; `MISS` where it has no similarity.
    """
    split, whole = split_over_all(mesh), replicated(mesh)
    width = min(block, len(candidates))
    blocks = -(-len(candidates) // width)
    embeddings = pad_rows(candidates, blocks * width).reshape(blocks, width, -1)
    image = pad_rows(candidate_image, blocks * width, fill=NO_IMAGE).reshape(blocks, width)
    on_device = place(embeddings, whole), place(image, whole)
    count_ahead = _jitted_count_ahead(mesh)
    rows = divisible(min(block, len(queries)), mesh)
    counts = []
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        padded = (pad_rows(a[part], rows) for a in (queries, query_image, positive))
        counts.append(count_ahead(*(place(a, split) for a in padded), *on_device))
    ahead = np.concatenate([np.asarray(c) for c in counts])[: len(queries)]
    return np.where(np.isfinite(positive), ahead, MISS).astype(np.int32)


def retrieval_ranks(
    images: np.ndarray, texts: np.ndarray, image_index: np.ndarray, mesh: Mesh, block: int = 2048
) -> Ranks:
    """Rank the positives in both directions by the protocol of Karpathy and Fei-Fei (2015).

    An image's rank is that of its best caption, and its other captions do not count as ahead of it; each caption
    is a query of its own. A candidate that ties with the positive (within `TIE`) or has NaN similarity ranks ahead of
    it; a positive of NaN similarity has rank `MISS`.

    Args:
      images: float32 (N, D), unit norm.
      texts: float32 (M, D), unit norm.
      image_index: int (M,), the row in `images` of each caption's image.
      mesh: queries are split over its devices; each holds all candidates.
      block: rows and columns of the similarity matrix computed at a time.

    Returns:
      i2t int32 (N,), `MISS` for an image without captions; t2i int32 (M,).
    """
    image_index = image_index.astype(np.int32)
    positive = positive_similarity(images, texts, image_index)
    best = np.full(len(images), -np.inf, np.float32)
    np.fmax.at(best, image_index, positive)
    own = np.arange(len(images), dtype=np.int32)
    return Ranks(
        i2t=ranks_one_way(images, own, best, texts, image_index, mesh, block),
        t2i=ranks_one_way(texts, image_index, positive, images, own, mesh, block),
    )
