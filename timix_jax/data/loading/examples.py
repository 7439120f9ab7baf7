"""From records to training examples: skipping corrupt ones, and building one example's arrays."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

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
BoxesOf = Literal["", "named", "clutter"]

_CROP_TRIES = 10
_MAX_CONSECUTIVE = 1000


class UnusableRegions(CorruptExample):
    """An example with a valid image and captions but unusable regions."""


@dataclass(frozen=True)
class Reader:
    """Selected examples of one source, read with corrupt ones replaced.

    Attributes:
      source: the source.
      indices: the examples used; a range takes no memory.
      offset: added to an index to give the example id.
      corrupt: collects the corrupt examples.
      for_regions: True if the examples are read for their regions. An example of which only the
        regions are unusable is then recorded separately, and other readers keep using it.
    """

    source: Source
    indices: Sequence[int] | np.ndarray
    offset: int
    corrupt: CorruptExamples
    for_regions: bool = False

    def read(self, position: int, use: Callable[[Record], T]) -> tuple[int, T]:
        """Read example `indices[position]` or, if it is corrupt, the next good one.

        Args:
          position: position in `indices`.
          use: converts the record; may raise CorruptExample too.

        Returns:
          The id of the example that was read, and the result of `use`. The choice depends only on
          the data, never on timing.

        Raises:
          UserError: all examples, or a thousand in a row, are corrupt.
        """
        tries = min(len(self.indices), _MAX_CONSECUTIVE)
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
            f"{self.source.name}: {tries} examples in a row are corrupt, the last one is "
            f"{self._reason(index)}; prepare the data again, in another folder"
        )

    @property
    def _regions_name(self) -> str:
        return f"regions of {self.source.name}"

    def _reason(self, index: int) -> str | None:
        unusable = self.corrupt.reason(self._regions_name, index) if self.for_regions else None
        return unusable or self.corrupt.reason(self.source.name, index)


@dataclass(frozen=True)
class ExampleSpec:
    """The form of an example.

    Attributes:
      image_size: side of the square picture in pixels.
      max_tokens: length of the token row.
      tokenizer: the tokenizer.
      augment: the random changes to images.
      max_regions: number of rows for boxes.
      boxes_of: adds the boxes of the regions that the chosen caption names, or of all others ("clutter"); "" for none.
      more_captions: further captions of the image.
    """

    image_size: int
    max_tokens: int
    tokenizer: Tokenizer
    augment: Augment
    max_regions: int
    boxes_of: BoxesOf = ""
    more_captions: int = 0


def pair_example(
    record: Record, rng: np.random.Generator, spec: ExampleSpec
) -> dict[str, np.ndarray]:
    """Build an example of a random view of the image and one of its captions.

    Returns:
      image uint8 (S, S, 3), tokens int32 (T,); with boxes also boxes float32 (M, 4) x0, y0, x1, y1
      as fractions of the view and box_mask bool (M,); with further captions also captions int32 (K, T).

    Raises:
      CorruptExample: the image cannot be decoded.
    """
    chosen = int(rng.integers(len(record.captions)))
    caption = record.captions[chosen]
    more = _more_captions(record.captions, chosen, rng, spec.more_captions)
    stored = (0, 0)
    if spec.augment.crop_min < 1 or spec.boxes_of:
        stored = image_size(record.image, record.key)
    view = sample_view(rng, spec.augment, stored[0], stored[1], (caption, *more))
    # The smaller the crop, the more pixels the whole image needs to fill the picture.
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
    if spec.more_captions:
        example["captions"] = spec.tokenizer.encode(more, spec.max_tokens)
    if spec.boxes_of:
        named = spec.boxes_of == "named"
        shown = [r.box for r in record.regions if (chosen in r.captions) == named]
        boxes = pixel_boxes_to_fractions(np.array(shown, np.float32), *stored)
        boxes, kept = view_boxes(boxes, view, pixels.shape[0], pixels.shape[1], spec.image_size)
        example["boxes"], example["box_mask"] = pad_boxes(boxes[kept], spec.max_regions)
    return example


def _more_captions(
    captions: Sequence[str], chosen: int, rng: np.random.Generator, count: int
) -> list[str]:
    """Draw further captions, each as rarely as possible again; the chosen one comes last."""
    if not count:
        return []
    others = [int(index) for index in rng.permutation(len(captions)) if index != chosen]
    order = [*others, chosen]
    return [captions[order[k % len(order)]] for k in range(count)]


def region_example(
    record: Record, rng: np.random.Generator, spec: ExampleSpec
) -> dict[str, np.ndarray]:
    """Build an example of a random view of an annotated image with 1 to `max_regions` of its regions.

    Returns:
      image uint8 (S, S, 3), tokens int32 (R, T), boxes float32 (R, 4) x0, y0, x1, y1 as fractions
      of the view, mask bool (R,).

    Raises:
      CorruptExample: the image cannot be decoded.
      UnusableRegions: no box lies inside the image.
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
        raise UnusableRegions(record.key, "is listed as annotated but has no box inside the image")
    chosen = rng.permutation(np.flatnonzero(kept))[: spec.max_regions]
    padded, mask = pad_boxes(boxes[chosen], spec.max_regions)
    return {
        "image": render_view(pixels, view, spec.image_size),
        "tokens": pad_tokens([texts[i] for i in chosen], spec.max_regions, spec),
        "boxes": padded,
        "mask": mask,
    }


def pad_boxes(boxes: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad boxes (n, 4) with zeros to float32 (rows, 4); also return which rows are real, bool (rows,)."""
    boxes = boxes[:rows]
    padded = np.zeros((rows, 4), np.float32)
    padded[: len(boxes)] = boxes
    return padded, np.arange(rows) < len(boxes)


def pad_tokens(texts: Sequence[str], rows: int, spec: ExampleSpec) -> np.ndarray:
    """Encode texts as int32 (rows, T); the remaining rows hold an empty text, never only padding."""
    return spec.tokenizer.encode([*texts, *[""] * (rows - len(texts))], spec.max_tokens)
