"""Crops, resizing and flips of images, with boxes that follow.

Boxes are float32 (..., 4) x0, y0, x1, y1 as fractions of the image; images are uint8 (H, W, 3).
Random functions take their generator as an argument.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

# A box is kept if more than this share of its area remains in the picture.
MIN_AREA_KEPT = 0.5
_BORDER = cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED  # pixels outside the crop are not read
_MAX_SMOOTHED_SHRINK = 2.0  # beyond this reduction three taps no longer prevent aliasing


class Crop(NamedTuple):
    """A window of an image, in fractions of its size: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1."""

    x0: float
    y0: float
    x1: float
    y1: float


WHOLE = Crop(0.0, 0.0, 1.0, 1.0)


def sample_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Crop:
    """Sample the window of RandomResizedCrop (Inception's rule).

    Args:
      rng: ten tries are drawn from it, whether or not they are needed.
      height: height of the image in pixels.
      width: width of the image in pixels.
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height in pixels, drawn log-uniformly.

    Returns:
      A window on the pixel grid; if no try fits, the largest centred one within `ratio`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    draws = rng.random((10, 4)).tolist()
    for share, shape, left, top in draws:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return Crop(x / width, y / height, (x + w) / width, (y + h) / height)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    x, y = (width - w) // 2, (height - h) // 2
    return Crop(x / width, y / height, (x + w) / width, (y + h) / height)


def snap_crop(crop: Crop, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the window on the pixel grid: x0, y0, x1, y1 in pixels, at least one pixel in size."""
    x0 = min(round(crop.x0 * width), width - 1)
    y0 = min(round(crop.y0 * height), height - 1)
    x1 = max(round(crop.x1 * width), x0 + 1)
    y1 = max(round(crop.y1 * height), y0 + 1)
    return x0, y0, x1, y1


def crop_and_resize(
    image: np.ndarray, crop: Crop, height: int, width: int
) -> tuple[np.ndarray, Crop]:
    """Cut a window out of an image and resize it.

    Args:
      image: uint8 (H, W, 3).
      crop: the window; it is snapped to the image's pixels.
      height: height of the result.
      width: width of the result.

    Returns:
      uint8 (height, width, 3), and the window actually cut, for the boxes.
    """
    full_height, full_width = image.shape[:2]
    x0, y0, x1, y1 = snap_crop(crop, full_height, full_width)
    cut = Crop(x0 / full_width, y0 / full_height, x1 / full_width, y1 / full_height)
    return resize(image[y0:y1, x0:x1], height, width), cut


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (H, W, 3) without aliasing: a shrinking side is smoothed first.

    Bicubic, or by area if a side shrinks more than twofold. Close to Pillow's antialiased bicubic
    (over 40 dB on photographs) in a fifth of the time.
    """
    shrink_y, shrink_x = image.shape[0] / height, image.shape[1] / width
    if max(shrink_y, shrink_x) > _MAX_SMOOTHED_SHRINK:
        # If a side also grew here, OpenCV would fall back to linear and skip pixels of the other side.
        smaller = min(image.shape[1], width), min(image.shape[0], height)
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    elif max(shrink_y, shrink_x) > 1:
        taps = _smoothing(shrink_x), _smoothing(shrink_y)
        image = cv2.sepFilter2D(image, -1, *taps, borderType=_BORDER)
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def _smoothing(shrink: float) -> np.ndarray:
    """Return three taps for a reduction by `shrink`: identity at 1, binomial at 2 (no Nyquist frequency)."""
    side = max(0.0, (shrink**2 - 1) / 12)
    return np.array([side, 1 - 2 * side, side], np.float32)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirror uint8 (H, W, 3) left to right."""
    return cv2.flip(image, 1)


def flip_boxes(boxes: np.ndarray) -> np.ndarray:
    """Mirror boxes (..., 4) left to right."""
    return np.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)


def crop_boxes(boxes: np.ndarray, crop: Crop) -> np.ndarray:
    """Express boxes (..., 4) as fractions of the window, without clipping them to it."""
    origin = np.array([crop.x0, crop.y0] * 2, boxes.dtype)
    size = np.array([crop.x1 - crop.x0, crop.y1 - crop.y0] * 2, boxes.dtype)
    return (boxes - origin) / size


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (...) of boxes (..., 4); 0 for empty ones."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), -1)


def clip_boxes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to the image.

    Returns:
      The clipped boxes (..., 4), and bool (...), True where more than half of the area remains.
    """
    clipped = np.clip(boxes, 0, 1)
    return clipped, box_area(clipped) > MIN_AREA_KEPT * box_area(boxes)


def pixel_boxes_to_fractions(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Convert x, y, width, height in pixels (n, 4) to clipped fractions x0, y0, x1, y1, float32 (n, 4)."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1)
    return np.clip(corners / np.array([width, height] * 2, np.float32), 0, 1)
