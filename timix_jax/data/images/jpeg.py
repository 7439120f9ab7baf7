"""Decoding of JPEG files by libjpeg-turbo: strict about pixels, lenient about the rest.

The strict mode of libjpeg-turbo refuses every file it would warn of, also where all pixels are
there: garbage before the end marker, no end marker, bytes between segments, zeros for the last
three bytes of a scan header. Such a file is decoded again, still strictly, without these parts.

A scan that ends early is refused, closed by an end marker or not, and so are bytes left over before
a restart marker or another scan, since damage leaves them. What cannot be told: bits that changed
inside a scan without breaking its codes, a progressive file cut exactly between two scans and closed
by an end marker, garbage that happens to continue a cut scan to its end, and a cut scan with
arithmetic coding.
"""

import bisect
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import simplejpeg

from timix_jax.data.images.jpeg_segments import strip_jpeg

_MAGIC = b"\xff\xd8\xff"
_EOI = b"\xff\xd9"
_CUT_SHORT = "premature end of data segment"
_GARBAGE_AT_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_READ_AHEAD = 32  # bytes; more than the decoder holds in its bit buffer
CMYK = ("CMYK", "YCCK")

T = TypeVar("T")


def is_jpeg(data: bytes) -> bool:
    """Return True if the file starts like a JPEG."""
    return data.startswith(_MAGIC)


def jpeg_header(data: bytes) -> tuple[int, int, str]:
    """Return height and width in pixels and the color space.

    Raises:
      ValueError: the header is damaged, or of a kind that simplejpeg does not know, such as an
        unusual subsampling of colors.
    """
    try:
        height, width, colorspace, _ = _leniently(simplejpeg.decode_jpeg_header, data)
    except LookupError as error:  # simplejpeg lacks the name of subsampling 4:4:1
        raise ValueError("of an unknown subsampling") from error
    return height, width, colorspace


def decode_jpeg(
    data: bytes, colorspace: str = "RGB", *, min_height: int = 0, min_width: int = 0
) -> np.ndarray:
    """Decode a JPEG.

    Args:
      data: the file.
      colorspace: `RGB`, or `CMYK` for files of that kind.
      min_height: with `min_width`, allows decoding at 1/2, 1/4 or 1/8 of the size. 0: full size.
      min_width: see `min_height`.

    Returns:
      uint8 (H, W, 3), or (H, W, 4) for CMYK.

    Raises:
      ValueError: pixels are missing or damaged.
    """
    # Only powers of two have a fast inverse DCT. Without both bounds the size is kept.
    scaled = (
        {"min_height": min_height, "min_width": min_width, "min_factor": 2}
        if min_height > 0 and min_width > 0
        else {}
    )
    return _leniently(lambda file: simplejpeg.decode_jpeg(file, colorspace, **scaled), data)


def lengthen_scan(data: bytes) -> bytes:
    """Return the JPEG with more bytes in its last scan, which change the pixels if it is cut short.

    For decoders that do not tell. Raises ValueError if scans are missing.
    """
    return strip_jpeg(data)[: -len(_EOI)] + b"\x5a" * 64 + _EOI


def _leniently(strict: Callable[[bytes], T], data: bytes) -> T:
    """Return `strict(data)`, without metadata and garbage where only these make it fail."""
    try:
        return strict(data)
    except ValueError:
        stripped = strip_jpeg(data)
    try:
        return strict(stripped)
    except ValueError as error:
        garbage = _GARBAGE_AT_END.search(str(error))
        if garbage is None:
            raise
    return strict(_without_garbage_at_end(stripped, int(garbage[1])))


def _without_garbage_at_end(data: bytes, extraneous: int) -> bytes:
    """Return a JPEG without the bytes between its last scan and its end marker.

    Args:
      data: a JPEG whose scans are complete and which ends with an end marker.
      extraneous: how many bytes the decoder counts there, without those it has read ahead.

    Raises:
      ValueError: these bytes seem to be part of a damaged scan. An encoder fills the last byte of a
        scan with ones; where damage ends a scan early, this is so by chance, one time in four. A
        last byte that the garbage repeats was not there before the garbage.
    """
    latest = len(data) - len(_EOI) - extraneous
    ends = range(max(latest - _READ_AHEAD, 0), latest)
    end = bisect.bisect_left(ends, True, key=lambda end: not _is_cut_short(data[:end])) + ends[0]
    whole, last = data[:end], data[end - 1]
    if not whole.endswith(b"\xff\0"):  # which stands for a byte of ones
        zero_bit = ~last & (last + 1)  # the lowest; the scan uses it, or it would be filled
        changed = bytes((last | zero_bit,)).replace(b"\xff", b"\xff\0")
        unused = zero_bit < 0x80 and _equal_pixels(whole, whole[:-1] + changed)
        if unused or data[end] == last:
            raise ValueError(f"a damaged scan leaves {len(data) - len(_EOI) - end} bytes over")
    return whole + _EOI


def _is_cut_short(data: bytes) -> bool:
    """Return True if a scan of the JPEG, given without an end marker, has too few bytes."""
    try:
        _decode_unconverted(data + _EOI)
    except ValueError as error:
        return _CUT_SHORT in str(error)
    return False


def _equal_pixels(data: bytes, other: bytes) -> bool:
    try:
        return np.array_equal(_decode_unconverted(data + _EOI), _decode_unconverted(other + _EOI))
    except ValueError:
        return False


def _decode_unconverted(data: bytes) -> np.ndarray:
    _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    return simplejpeg.decode_jpeg(data, "CMYK" if colorspace in CMYK else "RGB")
