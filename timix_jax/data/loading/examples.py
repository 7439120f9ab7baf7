"""Records to training examples: reading past corrupt ones, and the arrays of one example."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from timix_jax.data.images.augment import Augment, View, render_view, sample_view, view_boxes
from timix_jax.data.images.decode import decode_image, image_size
from timix_jax.data.images.transforms import pixel_boxes_to_fractions
from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.data.records.schema import CorruptExample, Record
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError

T = TypeVar("T")

_CROP_TRIES = 10
_MAX_IN_A_ROW = 1000


class UnusableRegions(CorruptExample):
    """The image and its captions are whole, the regions are not."""


@dataclass(frozen=True)
class Reader:
    """Chosen examples of one source, read past the corrupt ones.

    Attributes:
      source: the source.
      indices: the examples of it that are used; a range takes no memory.
      offset: added to an index gives the example id.
      corrupt: where corrupt ones are noted.
      of_regions: whether examples are wanted with their regions. One whose regions only are unusable is then noted
        apart, and goes on being read by others.
    """

    source: Source
    indices: Sequence[int] | np.ndarray
    offset: int
    corrupt: CorruptExamples
    of_regions: bool = False

    def read(self, position: int, use: Callable[[Record], T]) -> tuple[int, T]:
        """Reads example `indices[position]` or, where it is corrupt, the next good one.

        Args:
          position: in `indices`.
          use: makes of the record what is wanted; may raise CorruptExample too.

        Returns:
          The id of the example that was used, and `use`'s result. The choice depends on the data
          only, never on timing.

        Raises:
          UserError: all examples, or a thousand in a row, are corrupt.
        """
        tries = min(len(self.indices), _MAX_IN_A_ROW)
        for step in range(tries):
            index = int(self.indices[(position + step) % len(self.indices)])
            if self._reason(index):
                continue
            try:
                return self.offset + index, use(self.source[index])
            except UnusableRegions as error:
                self.corrupt.add(self._regions_name, index, str(error))
            except CorruptExample as error:
                self.corrupt.add(self.source.name, index, str(error))
        raise UserError(
            f"{self.source.name}: {tries} examples in a row are corrupt, the last is "
            f"{self._reason(index)}; prepare the data again, in another folder"
        )

    @property
    def _regions_name(self) -> str:
        return f"regions of {self.source.name}"

    def _reason(self, index: int) -> str | None:
        unusable = self.corrupt.reason(self._regions_name, index) if self.of_regions else None
        return unusable or self.corrupt.reason(self.source.name, index)


@dataclass(frozen=True)
class ExampleSpec:
    """What an example is made into.

    Attributes:
      image_size: side of the square picture, pixels.
      max_tokens: length of the token row.
      tokenizer: the tokenizer.
      augment: the random changes.
      max_regions: rows for boxes.
      with_boxes: adds the boxes that the chosen caption names.
    """

    image_size: int
    max_tokens: int
    tokenizer: Tokenizer
    augment: Augment
    max_regions: int = 5
    with_boxes: bool = False


def pair_example(
    record: Record, rng: np.random.Generator, spec: ExampleSpec
) -> dict[str, np.ndarray]:
    """A random view of the image with one of its captions.

    Returns:
      image uint8 (S, S, 3), tokens int32 (T,); with boxes also boxes float32 (M, 4) x0, y0, x1, y1
      as fractions of the view and box_mask bool (M,).

    Raises:
      CorruptExample: the image cannot be decoded.
    """
    chosen = int(rng.integers(len(record.captions)))
    caption = record.captions[chosen]
    stored = (0, 0)
    if spec.augment.crop_min < 1 or spec.with_boxes:
        stored = image_size(record.image, record.key)
    view = sample_view(rng, spec.augment, stored[0], stored[1], (caption,))
    # A window smaller than the image needs the image that much larger than the picture.
    pixels = decode_image(
        record.image,
        record.key,
        min_height=math.ceil(spec.image_size / (view.crop.y1 - view.crop.y0)),
        min_width=math.ceil(spec.image_size / (view.crop.x1 - view.crop.x0)),
    )
    example = {
        "image": render_view(pixels, view, spec.image_size),
        "tokens": spec.tokenizer.encode([caption], spec.max_tokens)[0],
    }
    if spec.with_boxes:
        named = [region.box for region in record.regions if chosen in region.captions]
        boxes = pixel_boxes_to_fractions(np.array(named, np.float32), *stored)
        boxes, kept = view_boxes(boxes, view, pixels.shape[0], pixels.shape[1], spec.image_size)
        example["boxes"], example["box_mask"] = pad_boxes(boxes[kept], spec.max_regions)
    return example


def region_example(
    record: Record, rng: np.random.Generator, spec: ExampleSpec
) -> dict[str, np.ndarray]:
    """A random view of an annotated image with up to `max_regions` of its regions, at least one.

    Returns:
      image uint8 (S, S, 3), tokens int32 (R, T), boxes float32 (R, 4) x0, y0, x1, y1 as fractions
      of the view, mask bool (R,).

    Raises:
      CorruptExample: the image cannot be decoded.
      UnusableRegions: no box lies in it.
    """
    pixels = decode_image(record.image, record.key)
    height, width = pixels.shape[:2]
    texts = [region.text for region in record.regions]
    whole = pixel_boxes_to_fractions(
        np.array([region.box for region in record.regions], np.float32), height, width
    )
    for attempt in range(_CROP_TRIES + 1):
        last = attempt == _CROP_TRIES
        view = View() if last else sample_view(rng, spec.augment, height, width, texts)
        boxes, kept = view_boxes(whole, view, height, width, spec.image_size)
        if kept.any():
            break
    else:
        raise UnusableRegions(record.key, "is listed as annotated and has no box inside the image")
    chosen = rng.permutation(np.flatnonzero(kept))[: spec.max_regions]
    padded, mask = pad_boxes(boxes[chosen], spec.max_regions)
    return {
        "image": render_view(pixels, view, spec.image_size),
        "tokens": pad_tokens([texts[i] for i in chosen], spec.max_regions, spec),
        "boxes": padded,
        "mask": mask,
    }


def pad_boxes(boxes: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) as float32 (rows, 4), zero beyond n, and which rows are real, bool (rows,)."""
    boxes = boxes[:rows]
    padded = np.zeros((rows, 4), np.float32)
    padded[: len(boxes)] = boxes
    return padded, np.arange(rows) < len(boxes)


def pad_tokens(texts: Sequence[str], rows: int, spec: ExampleSpec) -> np.ndarray:
    """Token ids int32 (rows, T); rows beyond the texts hold an empty text, never only padding."""
    return spec.tokenizer.encode([*texts, *[""] * (rows - len(texts))], spec.max_tokens)
