"""RandAugment (Cubuk et al. 2020) on uint8 arrays, with ALBEF's list of operations and ranges.

Operations are drawn first and applied afterwards, so that boxes can follow the same draw.

**Example:**

    operations = sample_operations(rng, number=2, magnitude=7)
    image = apply_operations(image, operations)
    boxes = move_boxes(boxes, operations, *image.shape[:2])
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from timix_jax.errors import UserError

MAX_MAGNITUDE = 10
ALBEF_OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
)

_FILL = (128, 128, 128)
_LEVELS = np.arange(256, dtype=np.float32)
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


_Row = tuple[float, float, float]


class Operation(NamedTuple):
    """A drawn operation with its strength in its own unit (see `_RANGES`)."""

    name: str
    value: float


# Strength as a function of magnitude / MAX_MAGNITUDE, and True if its sign is random.
_RANGES: dict[str, tuple[Callable[[float], float], bool]] = {
    "identity": (lambda m: 0.0, False),
    "autocontrast": (lambda m: 0.0, False),
    "equalize": (lambda m: 0.0, False),
    "brightness": (lambda m: 0.1 + 1.8 * m, False),  # factor
    "sharpness": (lambda m: 0.1 + 1.8 * m, False),  # factor, 1 = unchanged
    "color": (lambda m: 0.1 + 1.8 * m, False),  # factor of the saturation
    "contrast": (lambda m: 0.1 + 1.8 * m, False),  # factor
    "posterize": (lambda m: 8.0 - round(4 * m), False),  # bits kept
    "solarize": (lambda m: 256.0 * (1 - m), False),  # levels from this one up are inverted
    "shear_x": (lambda m: 0.3 * m, True),  # pixels per pixel, about the centre
    "shear_y": (lambda m: 0.3 * m, True),
    "translate_x": (lambda m: 10 / 256 * m, True),  # fraction of the width
    "translate_y": (lambda m: 10 / 256 * m, True),  # fraction of the height
    "rotate": (lambda m: 30.0 * m, True),  # degrees, counter-clockwise
}
GEOMETRIC = frozenset({"shear_x", "shear_y", "translate_x", "translate_y", "rotate"})


def check_operations(names: Sequence[str], magnitude: float) -> None:
    """Raise UserError for an unknown operation, an empty list or a magnitude outside 0 to 10."""
    unknown = [name for name in names if name not in _RANGES]
    if unknown or not names:
        raise UserError(
            f"operations={tuple(names)}: {unknown[0] if unknown else 'none'} is not "
            f"known; choose from {', '.join(_RANGES)}"
        )
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise UserError(
            f"magnitude={magnitude}: RandAugment's magnitude must be 0 to {MAX_MAGNITUDE}"
        )


def sample_operations(
    rng: np.random.Generator,
    number: int,
    magnitude: float,
    names: Sequence[str] = ALBEF_OPERATIONS,
    probability: float = 0.5,
) -> tuple[Operation, ...]:
    """Draw `number` operations with replacement; each is kept with `probability`.

    ALBEF keeps half of them; RandAugment's paper keeps all (probability 1).
    """
    drawn = []
    for which, keep, sign in rng.random((number, 3)).tolist():
        name = names[int(which * len(names))]
        if keep >= probability or name == "identity":
            continue
        strength, signed = _RANGES[name]
        value = strength(magnitude / MAX_MAGNITUDE)
        drawn.append(Operation(name, -value if signed and sign < 0.5 else value))
    return tuple(drawn)


def apply_operations(image: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """Apply operations in order to uint8 (H, W, 3), without modifying the input."""
    for name, value in operations:
        if name in GEOMETRIC:
            height, width = image.shape[:2]
            image = _warp(image, _affine(name, value, height, width))
        else:
            image = _PHOTOMETRIC[name](image, value)
    return image


def move_boxes(
    boxes: np.ndarray, operations: Sequence[Operation], height: int, width: int
) -> np.ndarray:
    """Move boxes along with an image's geometric operations.

    Args:
      boxes: (..., 4) x0, y0, x1, y1 as fractions of the image.
      operations: the operations applied to the image.
      height: height of the image in pixels.
      width: width of the image in pixels.

    Returns:
      (..., 4), the bounding box of the four moved corners, not clipped to the image.
    """
    x, y = boxes[..., [0, 2, 0, 2]] * width, boxes[..., [1, 1, 3, 3]] * height
    for name, value in operations:
        if name in GEOMETRIC:
            (xx, xy, x0), (yx, yy, y0) = _affine(name, value, height, width)
            x, y = xx * x + xy * y + x0, yx * x + yy * y + y0
    x, y = x / width, y / height
    return np.stack([x.min(-1), y.min(-1), x.max(-1), y.max(-1)], -1).astype(boxes.dtype)


def _affine(name: str, value: float, height: int, width: int) -> tuple[_Row, _Row]:
    """Return the (2, 3) matrix from input to output coordinates; the image covers [0, W] × [0, H].

    Uses Python floats, because small NumPy arrays would cost more time than the warp itself.
    """
    xx, xy, yx, yy = 1.0, 0.0, 0.0, 1.0
    right, down = 0.0, 0.0
    if name == "shear_x":
        xy = value
    elif name == "shear_y":
        yx = value
    elif name == "translate_x":
        right = value * width
    elif name == "translate_y":
        down = value * height
    elif name == "rotate":
        cos, sin = math.cos(math.radians(value)), math.sin(math.radians(value))
        xx, xy, yx, yy = cos, sin, -sin, cos  # y points down
    else:
        raise ValueError(f"not a geometric operation: {name}")
    x, y = width / 2, height / 2  # the fixed point
    return (xx, xy, x - xx * x - xy * y + right), (yx, yy, y - yx * x - yy * y + down)


def _warp(image: np.ndarray, matrix: tuple[_Row, _Row]) -> np.ndarray:
    # OpenCV puts pixel centres at integers, we put them at half-integers.
    (xx, xy, x0), (yx, yy, y0) = matrix
    shifted = [[xx, xy, x0 + 0.5 * (xx + xy) - 0.5], [yx, yy, y0 + 0.5 * (yx + yy) - 0.5]]
    return cv2.warpAffine(
        image,
        np.array(shifted),
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FILL,
    )


def _table(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Look up each level in a float table (256,) or (256, 3)."""
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table.reshape(1, 256, -1))


def _autocontrast(image: np.ndarray, _: float) -> np.ndarray:
    low = cv2.reduce(image, 0, cv2.REDUCE_MIN).min((0, 1)).astype(np.float32)
    high = cv2.reduce(image, 0, cv2.REDUCE_MAX).max((0, 1)).astype(np.float32)
    span = np.where(high > low, high - low, 255)  # a flat channel is left unchanged
    start = np.where(high > low, low, 0)
    return _table(image, (_LEVELS[:, None] - start) * (255 / span))


def _equalize(image: np.ndarray, _: float) -> np.ndarray:
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return _table(image, _LEVELS * factor)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    grey = float(np.dot(cv2.mean(image)[:3], _GREY))
    return _table(image, grey + (_LEVELS - grey) * factor)


def _color(image: np.ndarray, factor: float) -> np.ndarray:
    matrix = factor * np.eye(3, dtype=np.float32) + (1 - factor) * np.tile(_GREY, (3, 1))
    return cv2.transform(image, matrix.astype(np.float32))


def _sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    kernel = (1 - factor) * _SMOOTH
    kernel[1, 1] += factor
    sharp = cv2.filter2D(image, -1, kernel)
    # Border pixels lack a full neighbourhood and are left unchanged.
    sharp[0], sharp[-1], sharp[:, 0], sharp[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
    return sharp


def _posterize(image: np.ndarray, bits: float) -> np.ndarray:
    return _table(
        image, (_LEVELS.astype(np.uint8) & (0xFF << (8 - int(bits)) & 0xFF)).astype(np.float32)
    )


def _solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    return _table(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


_PHOTOMETRIC: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "brightness": _brightness,
    "contrast": _contrast,
    "color": _color,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
}
