"""From an example as it was found to a record that is known to be usable."""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from timix_jax.data.images.decode import decode_image
from timix_jax.data.prepare.regions import clean_regions
from timix_jax.data.prepare.tasks import Example, Problem, tidy, well_formed
from timix_jax.data.records.schema import CorruptExample, Record

_FORMATS = ("JPEG", "PNG", "WEBP")
_JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # EXIF tag; 1 = upright


class Cleaned(NamedTuple):
    """A record with the size (width, height) of its image, or None; and what was left out."""

    record: Record | None
    size: tuple[int, int] = (0, 0)
    reencoded: bool = False
    problems: tuple[Problem, ...] = ()


def clean(example: Example, max_size: int | None) -> Cleaned:
    """Checks an example: decodes the whole image, tidies its texts, clips its boxes.

    An image is re-encoded (JPEG, quality 95) if its longer side is above `max_size`, if it is no
    JPEG, PNG or WebP, or if its EXIF data turn it and it has no regions: readers ignore that tag,
    and boxes are in pixels as stored. Otherwise its bytes stay.

    Args:
      example: what a format has read.
      max_size: longest side of a stored image in pixels; None: any.
    """
    key = well_formed(example.key)
    captions = [tidy(caption) for caption in example.captions]
    kept = tuple(filter(None, captions))
    problems = [Problem("empty caption", key, skipped=False)] * (len(captions) - len(kept))
    if not kept:
        detail = "all of them are empty" if captions else "none given"
        return Cleaned(None, problems=(*problems, Problem("no caption", key, detail)))
    try:
        pixels = decode_image(example.image, key)
        with Image.open(io.BytesIO(example.image)) as header:
            known = header.format in _FORMATS
            turned = header.getexif().get(_ORIENTATION, 1) != 1 and not example.regions
    except CorruptExample as error:
        return Cleaned(None, problems=(*problems, Problem("corrupt image", key, error.reason)))
    except Exception as error:  # a parser of damaged EXIF data raises anything
        return Cleaned(None, problems=(*problems, Problem("corrupt image", key, repr(error))))
    height, width = pixels.shape[:2]
    shrink = max_size is not None and max(height, width) > max_size
    image = example.image
    if turned or shrink or not known:
        image, pixels = _reencode(example.image, pixels, max_size if shrink else None, turned)
    stored = (pixels.shape[1], pixels.shape[0])
    scale = (stored[0] / width, stored[1] / height)
    regions, dropped = clean_regions(key, example.regions, (width, height), scale)
    record = Record(key, image, kept, regions)
    return Cleaned(record, stored, image is not example.image, (*problems, *dropped))


def _reencode(
    data: bytes, pixels: np.ndarray, max_size: int | None, turned: bool
) -> tuple[bytes, np.ndarray]:
    """JPEG bytes and pixels, uint8 (H, W, 3), turned upright and shrunk as asked."""
    if turned:
        with Image.open(io.BytesIO(data)) as image:
            orientation = image.getexif()[_ORIENTATION]
        pixels = _upright(pixels, orientation)
    if max_size is not None:
        height, width = pixels.shape[:2]
        factor = max_size / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue(), pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation 2 … 8; (H, W, 3) to the same or (W, H, 3). Others: unchanged."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
