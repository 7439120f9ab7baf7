"""Batches of texts whose place in the image is known: captions and region phrases of annotated examples."""

from __future__ import annotations

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
from timix_jax.data.records.schema import Record
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
      An iterator of image uint8 (b, S, S, 3), tokens int32 (b, T), boxes float32 (b, R, 4) x0, y0, x1, y1 as
      fractions of the image, named bool (b, R) for the boxes of what the text names, shown bool (b, R) for all boxes,
      index int32 (b,) in the source, valid bool (b,). Padded rows repeat the first row of the batch, so that means
      over a batch stay those of real texts.

    Raises:
      UserError: a corrupt example.
    """
    cv2.setNumThreads(1)

    def rows_of(record: Record) -> list[Batch]:
        regions = record.regions[:max_boxes]
        if kind == "captions":
            named = [[0 in region.captions for region in regions]]
            texts = [record.captions[0]] if any(named[0]) else []
        else:
            texts = [region.text for region in regions]
            named = [[region.text == text for region in regions] for text in texts]
        if not texts:
            return []
        pixels = decode_image(record.image, record.key)
        corners = np.array([region.box for region in regions], np.float32)
        boxes, shown = pad_boxes(pixel_boxes_to_fractions(corners, *pixels.shape[:2]), max_boxes)
        common = {"image": resize(pixels, image_size, image_size), "boxes": boxes, "shown": shown}
        tokens = tokenizer.encode(texts, max_tokens)
        return [
            {**common, "tokens": row, "named": np.resize(np.array(of_text), max_boxes) & shown}
            for row, of_text in zip(tokens, named, strict=True)
        ]

    def load(indices: Sequence[int]) -> Batch:
        rows = [empty]
        for index in indices:
            marks = {"index": np.array(index, np.int32), "valid": np.array(True)}
            rows.extend(row | marks for row in read_example(source, index, rows_of))
        return {name: np.stack([row[name] for row in rows])[1:] for name in empty}

    boxes, mask = pad_boxes(np.zeros((0, 4), np.float32), max_boxes)
    empty: Batch = {
        "image": np.zeros((image_size, image_size, 3), np.uint8),
        "tokens": tokenizer.encode([""], max_tokens)[0],
        "boxes": boxes,
        "named": mask,
        "shown": mask,
        "index": np.array(0, np.int32),
        "valid": np.array(False),
    }
    padding = {name: value[None] for name, value in empty.items()}
    annotated = source.annotated.tolist()
    batches = share_batches(annotated, load, padding, batch_size, share, thread_count(num_threads))
    for batch in batches:
        yield _repeat_first(batch)


def _repeat_first(batch: Batch) -> Batch:
    valid = batch["valid"]
    if valid.all() or not valid.any():
        return batch
    first = int(np.argmax(valid))
    place = np.where(valid, np.arange(len(valid)), first)
    return {name: value[place] for name, value in batch.items()} | {"valid": valid}
