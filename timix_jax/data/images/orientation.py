"""EXIF orientation: 1 is upright, 2 to 8 are the other flips and rotations."""

import numpy as np
from PIL import Image

UPRIGHT = 1
_TAG = 0x0112


def read_orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, that an opened image's EXIF or XMP data give; 1 if unreadable."""
    try:
        orientation = int(image.getexif().get(_TAG, UPRIGHT))
    except Exception:  # parsers of damaged EXIF data may raise anything
        return UPRIGHT
    return orientation if orientation in range(2, 9) else UPRIGHT


def rotate_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate pixels (H, W, 3), stored in this orientation, upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def undo_rotation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, 3) as stored, given the upright ones; inverts `rotate_upright`."""
    return rotate_upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))
