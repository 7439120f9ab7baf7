"""Batches for evaluation: every image, caption or region once, in order.

Images are resized whole, without keeping their aspect ratio. Shapes are static: the last batch is
padded and its padding marked invalid. A corrupt example stops the evaluation, whose figures would
otherwise describe a different set. Processes share the reading: each gets its own rows of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from timix_jax.data.images.augment import Augment
from timix_jax.data.images.decode import decode_image
from timix_jax.data.images.transforms import pixel_boxes_to_fractions, resize
from timix_jax.data.loading.examples import ExampleSpec, pad_boxes, pad_tokens
from timix_jax.data.loading.reader_threads import map_in_threads, thread_count
from timix_jax.data.loading.share import WHOLE, Batch, Share, share_batches
from timix_jax.data.records.schema import CorruptExample, Record
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError


def image_batches(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    share: Share = WHOLE,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Yield every image of the share once; the number of batches is the same for every share.

    Args:
      source: the examples.
      image_size: side S in pixels.
      batch_size: rows of the batch of all processes; a multiple of `share.parts`.
      share: the rows to read, b = batch_size / parts · len(own); all by default.
      num_threads: number of threads; 0: one per core of this process.

    Returns:
      An iterator of image uint8 (b, S, S, 3), index int32 (b,) in the source, valid bool (b,).

    Raises:
      UserError: a corrupt example.
    """
    cv2.setNumThreads(1)
    step = np.arange(batch_size // share.parts) * share.parts
    own = np.concatenate([part + step for part in share.own])

    def load(number: int) -> Batch:
        index = number * batch_size + own
        valid = index < len(source)
        images = np.zeros((len(own), image_size, image_size, 3), np.uint8)
        for row in np.flatnonzero(valid).tolist():
            images[row] = read_example(
                source, int(index[row]), lambda record: _decode_resized(record, image_size)
            )
        return {
            "image": images,
            "index": np.where(valid, index, 0).astype(np.int32),
            "valid": valid,
        }

    yield from map_in_threads(-(-len(source) // batch_size), load, thread_count(num_threads))


def caption_batches(
    source: Source,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    batch_size: int,
    share: Share = WHOLE,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Yield every caption of every image of the share once, in at least one batch.

    Arguments are as in `image_batches`; the number of batches differs between shares.

    Returns:
      An iterator of tokens int32 (b, T), index int32 (b,) of the caption's image in the source, valid
      bool (b,).

    Raises:
      UserError: a corrupt example.
    """

    def load(indices: Sequence[int]) -> Batch:
        captions, owners = [], []
        for index in indices:
            found = read_example(source, index, lambda record: record.captions)
            captions.extend(found)
            owners.extend([index] * len(found))
        return {
            "tokens": tokenizer.encode(captions, max_tokens),
            "index": np.array(owners, np.int32),
            "valid": np.ones(len(captions), bool),
        }

    padding = {
        "tokens": tokenizer.encode([""], max_tokens),
        "index": np.zeros(1, np.int32),
        "valid": np.zeros(1, bool),
    }
    yield from share_batches(
        range(len(source)), load, padding, batch_size, share, thread_count(num_threads)
    )


def region_batches(
    source: Source,
    tokenizer: Tokenizer,
    *,
    image_size: int,
    max_tokens: int,
    batch_size: int,
    max_regions: int,
    share: Share = WHOLE,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Yield every region of every annotated example of the share, in at least one batch.

    An example with more than R = `max_regions` regions takes several rows. Other arguments are as
    in `image_batches`; the number of batches differs between shares.

    Returns:
      An iterator of image uint8 (b, S, S, 3), tokens int32 (b, R, T), boxes float32 (b, R, 4) x0,
      y0, x1, y1 as fractions of the image, mask bool (b, R), index int32 (b,) in the source, valid
      bool (b,).

    Raises:
      UserError: a corrupt example.
    """
    cv2.setNumThreads(1)
    spec = ExampleSpec(image_size, max_tokens, tokenizer, Augment(), max_regions)
    empty = _empty_region_row(spec)

    def load(indices: Sequence[int]) -> Batch:
        rows = [empty]
        for index in indices:
            marks = {"index": np.array(index, np.int32), "valid": np.array(True)}
            found = read_example(source, index, lambda record: _region_rows(record, spec))
            rows.extend(row | marks for row in found)
        return {name: np.stack([row[name] for row in rows])[1:] for name in empty}

    padding = {name: value[None] for name, value in empty.items()}
    annotated = source.annotated.tolist()
    yield from share_batches(annotated, load, padding, batch_size, share, thread_count(num_threads))


def _empty_region_row(spec: ExampleSpec) -> Batch:
    boxes, mask = pad_boxes(np.zeros((0, 4), np.float32), spec.max_regions)
    return {
        "image": np.zeros((spec.image_size, spec.image_size, 3), np.uint8),
        "tokens": pad_tokens([], spec.max_regions, spec),
        "boxes": boxes,
        "mask": mask,
        "index": np.array(0, np.int32),
        "valid": np.array(False),
    }


def region_boxes(record: Record) -> np.ndarray:
    """Return the boxes of all regions, float32 (R, 4) x0, y0, x1, y1 as fractions of the decoded image.

    Raises:
      CorruptExample: the image cannot be decoded.
    """
    height, width = decode_image(record.image, record.key).shape[:2]
    pixels = np.array([region.box for region in record.regions], np.float32).reshape(-1, 4)
    return pixel_boxes_to_fractions(pixels, height, width)


def _region_rows(record: Record, spec: ExampleSpec) -> list[Batch]:
    if not record.regions:
        return []
    pixels = decode_image(record.image, record.key)
    image = resize(pixels, spec.image_size, spec.image_size)
    rows = []
    for start in range(0, len(record.regions), spec.max_regions):
        part = record.regions[start : start + spec.max_regions]
        corners = pixel_boxes_to_fractions(
            np.array([region.box for region in part], np.float32), *pixels.shape[:2]
        )
        boxes, mask = pad_boxes(corners, spec.max_regions)
        tokens = pad_tokens([region.text for region in part], spec.max_regions, spec)
        rows.append({"image": image, "tokens": tokens, "boxes": boxes, "mask": mask})
    return rows


def _decode_resized(record: Record, image_size: int) -> np.ndarray:
    pixels = decode_image(record.image, record.key, min_height=image_size, min_width=image_size)
    return resize(pixels, image_size, image_size)


def read_example(source: Source, index: int, use: Callable[[Record], Any]) -> Any:
    """Return `use(source[index])`; a corrupt example raises UserError."""
    try:
        return use(source[index])
    except CorruptExample as error:
        raise UserError(
            f"{source.name}: example {index} cannot be evaluated: {error}; prepare the data again "
            "without it, in another folder"
        ) from error
