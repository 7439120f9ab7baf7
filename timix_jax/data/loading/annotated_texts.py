"""Batches of texts whose place in the image is known: captions and region phrases of annotated examples."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np

from timix_jax.data.images.decode import decode_image
from timix_jax.data.images.transforms import pixel_boxes_to_fractions, resize
from timix_jax.data.loading.evaluation import read_example
from timix_jax.data.loading.examples import pad_boxes
from timix_jax.data.loading.reader_threads import thread_count
from timix_jax.data.loading.share import WHOLE, Batch, Share, share_batches
from timix_jax.data.records.schema import Record, Region
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer

TextKind = Literal["captions", "phrases"]


def annotated_text_batches(
    source: Source,
    tokenizer: Tokenizer,
    *,
    kind: TextKind,
    image_size: int,
    max_tokens: int,
    max_boxes: int,
    batch_size: int,
    share: Share = WHOLE,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Yield one row for each text of every annotated example of the share, in at least one batch.

    Args:
      source: the examples.
      tokenizer: turns texts into tokens.
      kind: "captions", the first caption of each image of which a region says that the caption mentions it; or
        "phrases", the text of each region.
      image_size: side S in pixels.
      max_tokens: T.
      max_boxes: R; an image with more regions is judged by its first R.
      batch_size: rows of the batch of all processes; a multiple of `share.parts`.
      share: the rows to read; all by default.
      num_threads: number of threads; 0: one per core of this process.

    Returns:
      An iterator of image uint8 (b, S, S, 3), tokens int32 (b, T), other_tokens int32 (b, T) of a text of the next
      annotated example, boxes float32 (b, R, 4) x0, y0, x1, y1 as fractions of the image, named bool (b, R) for the
      boxes of what the text names, shown bool (b, R) for all boxes, index int32 (b,) in the source, valid bool (b,).

    Raises:
      UserError: a corrupt example.
    """
    cv2.setNumThreads(1)
    annotated = source.annotated.tolist()

    def rows_of(record: Record, other: Record) -> list[Batch]:
        regions = record.regions[:max_boxes]
        texts, named = _texts(record, regions, kind)
        if not texts:
            return []
        pixels = decode_image(record.image, record.key)
        corners = np.array([region.box for region in regions], np.float32)
        boxes, shown = pad_boxes(pixel_boxes_to_fractions(corners, *pixels.shape[:2]), max_boxes)
        image = resize(pixels, image_size, image_size)
        others = (
            [other.captions[0]] if kind == "captions" else [region.text for region in other.regions]
        )
        tokens = tokenizer.encode(texts, max_tokens)
        other_tokens = tokenizer.encode(others, max_tokens)
        return [
            {
                "image": image,
                "tokens": tokens[row],
                "other_tokens": other_tokens[row % len(others)],
                "boxes": boxes,
                "named": np.resize(np.array(named[row]), max_boxes) & shown,
                "shown": shown,
            }
            for row in range(len(texts))
        ]

    def load(positions: Sequence[int]) -> Batch:
        rows = [empty]
        for position in positions:
            index, after = annotated[position], annotated[(position + 1) % len(annotated)]
            other = read_example(source, after, lambda record: record)
            found = read_example(source, index, functools.partial(rows_of, other=other))
            marks = {"index": np.array(index, np.int32), "valid": np.array(True)}
            rows.extend(row | marks for row in found)
        return {name: np.stack([row[name] for row in rows])[1:] for name in empty}

    boxes, mask = pad_boxes(np.zeros((0, 4), np.float32), max_boxes)
    tokens = tokenizer.encode([""], max_tokens)[0]
    empty: Batch = {
        "image": np.zeros((image_size, image_size, 3), np.uint8),
        "tokens": tokens,
        "other_tokens": tokens,
        "boxes": boxes,
        "named": mask,
        "shown": mask,
        "index": np.array(0, np.int32),
        "valid": np.array(False),
    }
    padding = {name: value[None] for name, value in empty.items()}
    yield from share_batches(
        range(len(annotated)), load, padding, batch_size, share, thread_count(num_threads)
    )


def _texts(
    record: Record, regions: Sequence[Region], kind: TextKind
) -> tuple[list[str], list[list[bool]]]:
    """Return the texts of an example and, for each of them, which regions it names."""
    if kind == "captions":
        named = [0 in region.captions for region in regions]
        return ([record.captions[0]], [named]) if any(named) else ([], [])
    texts = [region.text for region in regions]
    return texts, [[region.text == text for region in regions] for text in texts]
