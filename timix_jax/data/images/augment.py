"""A random view of an image: sampling it, rendering it, and moving boxes with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from timix_jax.data.images import transforms
from timix_jax.data.images.randaugment import (
    ALBEF_OPERATIONS,
    Operation,
    apply_operations,
    check_operations,
    move_boxes,
    sample_operations,
)
from timix_jax.data.images.side_words import mentions_side
from timix_jax.data.images.transforms import Crop
from timix_jax.errors import UserError


@dataclass(frozen=True)
class Augment:
    """Random changes to training images.

    Attributes:
      crop_min: smallest share of the area that RandomResizedCrop keeps; 1 = the whole image.
      crop_ratio: smallest and largest width / height of the crop.
      flip: mirror half of the images, except those whose text names left or right; see `side_words`.
      randaugment: operations per image; 0 = none.
      magnitude: strength of the operations, 0 to 10.
      operations: operations that RandAugment draws from; see `randaugment`.
      probability: share of the drawn operations that are applied.

    Raises:
      UserError: a value is out of range.
    """

    crop_min: float = 1.0
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    randaugment: int = 0
    magnitude: float = 7.0
    operations: tuple[str, ...] = ALBEF_OPERATIONS
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.crop_min <= 1:
            raise UserError(
                f"crop_min={self.crop_min}: a share of the area, must be above 0 and at most 1"
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UserError(
                f"crop_ratio={self.crop_ratio}: give the smallest ratio, then the largest"
            )
        if self.randaugment < 0:
            raise UserError(
                f"randaugment={self.randaugment}: a number of operations, must be 0 or more"
            )
        if not 0 <= self.probability <= 1:
            raise UserError(f"probability={self.probability}: must be 0 to 1")
        check_operations(self.operations, self.magnitude)


class View(NamedTuple):
    """A sampled view of one image."""

    crop: Crop = transforms.WHOLE
    flipped: bool = False
    operations: tuple[Operation, ...] = ()


def sample_view(
    rng: np.random.Generator, augment: Augment, height: int, width: int, texts: Sequence[str]
) -> View:
    """Sample a view of an image of `height` × `width` pixels described by `texts`."""
    crop = transforms.WHOLE
    if augment.crop_min < 1:
        crop = transforms.sample_crop(
            rng, height, width, scale=(augment.crop_min, 1.0), ratio=augment.crop_ratio
        )
    flipped = augment.flip and rng.random() < 0.5 and not mentions_side(texts)
    operations: tuple[Operation, ...] = ()
    if augment.randaugment:
        operations = sample_operations(
            rng, augment.randaugment, augment.magnitude, augment.operations, augment.probability
        )
    return View(crop, flipped, operations)


def render_view(pixels: np.ndarray, view: View, size: int) -> np.ndarray:
    """Render a view, uint8 (size, size, 3), of decoded pixels, uint8 (H, W, 3)."""
    image, _ = transforms.crop_and_resize(pixels, view.crop, size, size)
    if view.flipped:
        image = transforms.flip(image)
    return apply_operations(image, view.operations)


def view_boxes(
    boxes: np.ndarray, view: View, height: int, width: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes from the image into a view.

    Args:
      boxes: float32 (n, 4) x0, y0, x1, y1 as fractions of the image.
      view: the view.
      height: height of the decoded pixels passed to `render_view`.
      width: width of the same pixels.
      size: side of the rendered view in pixels.

    Returns:
      float32 (n, 4) as fractions of the view, clipped to it, and bool (n,), True where more than
      half of the box's area remains, both after the crop and after the operations.
    """
    x0, y0, x1, y1 = transforms.snap_crop(view.crop, height, width)
    cut = Crop(x0 / width, y0 / height, x1 / width, y1 / height)
    boxes, kept = transforms.clip_boxes(transforms.crop_boxes(boxes, cut))
    if view.flipped:
        boxes = transforms.flip_boxes(boxes)
    if view.operations:
        moved = move_boxes(boxes, view.operations, size, size)
        boxes, still_inside = transforms.clip_boxes(moved)
        kept = kept & still_inside
    return boxes, kept
