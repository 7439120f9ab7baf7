"""Batches for evaluation: every image, every caption or every region once, in order.

Pictures are the whole image, squashed to the size. Shapes are static: the last batch is padded and
marked. A corrupt example stops the evaluation, since its figures would be of another set.
"""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grain
import numpy as np

from timix_jax.data.augment import Augment
from timix_jax.data.cores import available_cores
from timix_jax.data.decode import decode_image
from timix_jax.data.examples import ExampleSpec, pad_boxes, pad_tokens
from timix_jax.data.record_schema import CorruptExample, Record
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.data.transforms import pixel_boxes_to_fractions, resize
from timix_jax.errors import UserError

Batch = dict[str, np.ndarray]

# Each has a whole batch at hand, 150 MB at 1,024 images of 224 px.
MOST_THREADS = 8


def image_batches(
    source: Source, *, image_size: int, batch_size: int, num_threads: int = 0
) -> Iterator[Batch]:
    """Yields every image once.

    Returns:
      An iterator of image uint8 (b, S, S, 3), index int32 (b,) in the source, valid bool (b,).

    Raises:
      UserError: a corrupt example.
    """
    cv2.setNumThreads(1)

    def load(number: int) -> Batch:
        indices = np.arange(number * batch_size, min((number + 1) * batch_size, len(source)))
        images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = _read(source, index, lambda record: _picture(record, image_size))
        padded = np.zeros(batch_size, np.int32)
        padded[: len(indices)] = indices
        return {"image": images, "index": padded, "valid": np.arange(batch_size) < len(indices)}

    yield from _in_threads(-(-len(source) // batch_size), load, num_threads)


def caption_batches(
    source: Source, tokenizer: Tokenizer, *, max_tokens: int, batch_size: int, num_threads: int = 0
) -> Iterator[Batch]:
    """Yields every caption of every image once.

    Returns:
      An iterator of tokens int32 (b, T), image_index int32 (b,) in the source, valid bool (b,).

    Raises:
      UserError: a corrupt example.
    """

    def load(number: int) -> Batch:
        captions, owners = [], []
        for index in range(number * batch_size, min((number + 1) * batch_size, len(source))):
            found = _read(source, index, lambda record: record.captions)
            captions.extend(found)
            owners.extend([index] * len(found))
        return {
            "tokens": tokenizer.encode(captions, max_tokens),
            "image_index": np.array(owners, np.int32),
            "valid": np.ones(len(captions), bool),
        }

    padding = {
        "tokens": tokenizer.encode([""], max_tokens),
        "image_index": np.zeros(1, np.int32),
        "valid": np.zeros(1, bool),
    }
    chunks = _in_threads(-(-len(source) // batch_size), load, num_threads)
    yield from _rebatch(chunks, batch_size, padding)


def region_batches(
    source: Source,
    tokenizer: Tokenizer,
    *,
    image_size: int,
    max_tokens: int,
    batch_size: int,
    max_regions: int,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Yields every region of every example that has any; more than R regions take several rows.

    Returns:
      An iterator of image uint8 (b, S, S, 3), tokens int32 (b, R, T), boxes float32 (b, R, 4) x0,
      y0, x1, y1 as fractions of the image, mask bool (b, R).

    Raises:
      UserError: a corrupt example.
    """
    cv2.setNumThreads(1)
    spec = ExampleSpec(image_size, max_tokens, tokenizer, Augment(), max_regions)

    def load(number: int) -> Batch:
        rows = [_empty_region_row(spec)]
        for index in range(number * batch_size, min((number + 1) * batch_size, len(source))):
            rows.extend(_read(source, index, lambda record: _region_rows(record, spec)))
        return {name: np.stack([row[name] for row in rows])[1:] for name in rows[0]}

    padding = {name: value[None] for name, value in _empty_region_row(spec).items()}
    chunks = _in_threads(-(-len(source) // batch_size), load, num_threads)
    yield from _rebatch(chunks, batch_size, padding)


def _empty_region_row(spec: ExampleSpec) -> Batch:
    boxes, mask = pad_boxes(np.zeros((0, 4), np.float32), spec.max_regions)
    return {
        "image": np.zeros((spec.image_size, spec.image_size, 3), np.uint8),
        "tokens": pad_tokens([], spec.max_regions, spec),
        "boxes": boxes,
        "mask": mask,
    }


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


def _picture(record: Record, image_size: int) -> np.ndarray:
    pixels = decode_image(record.image, record.key, min_height=image_size, min_width=image_size)
    return resize(pixels, image_size, image_size)


def _read(source: Source, index: int, use: Callable[[Record], Any]) -> Any:
    try:
        return use(source[index])
    except CorruptExample as error:
        raise UserError(
            f"{source.name}: example {index} cannot be evaluated: {error}; prepare the data again "
            "without it, in another folder"
        ) from error


def _in_threads(count: int, load: Callable[[int], Batch], num_threads: int) -> Iterator[Batch]:
    """load(0), load(1), …, in order, made by threads ahead of need; 0: one for each core of this process."""
    num_threads = num_threads or min(max(2, available_cores()), MOST_THREADS)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads + 2)
    iterator = iter(grain.MapDataset.range(count).map(load).to_iter_dataset(options))
    try:
        yield from iterator
    except UserError as error:
        raise UserError(first_line(error)) from error
    finally:
        iterator.close()


def first_line(error: Exception) -> str:
    """The message without the lines about tracebacks that Grain adds to it."""
    return str(error).partition("\n")[0]


def _rebatch(chunks: Iterator[Batch], batch_size: int, padding: Batch) -> Iterator[Batch]:
    """Batches of ``batch_size`` rows from chunks of any; the last is filled with ``padding``."""
    held: Batch | None = None
    for chunk in chunks:
        held = chunk if held is None else _concatenate(held, chunk)
        while held is not None and len(next(iter(held.values()))) >= batch_size:
            yield {name: rows[:batch_size] for name, rows in held.items()}
            held = {name: rows[batch_size:] for name, rows in held.items()}
    rest = 0 if held is None else len(next(iter(held.values())))
    if held is not None and rest:
        fill = {
            name: np.repeat(row.astype(held[name].dtype), batch_size - rest, 0)
            for name, row in padding.items()
        }
        yield _concatenate(held, fill)


def _concatenate(first: Batch, second: Batch) -> Batch:
    return {name: np.concatenate([rows, second[name]]) for name, rows in first.items()}
