"""The pictures of hits, small and ready for a page."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np

from timix_jax.data.images.decode import decode_image
from timix_jax.data.prepare.tar_reader import TarMember, tar_members
from timix_jax.data.prepare.tasks import is_special
from timix_jax.data.records.schema import CorruptExample

SIDE = 320  # pixels of the longer side
_JPEG_QUALITY = 80
_HEAT_OPACITY = 0.65
_ESCAPED = re.compile(r"\\udc([0-9a-f]{2})")  # a byte that is not UTF-8, as `embed` writes it


def read_image(path: str) -> bytes:
    """Return the image file that the metadata call `path`: a file, or `FILE.tar/MEMBER`.

    Raises:
      CorruptExample: it is gone or cannot be read.
    """
    file = Path(_ESCAPED.sub(lambda match: chr(0xDC00 + int(match[1], 16)), path))
    tar = next((parent for parent in file.parents if ".tar" in parent.name), None)
    try:
        if tar is not None and not file.exists():
            return _member(tar, path)
        if is_special(file):
            raise CorruptExample(path, "not a regular file")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, CorruptExample):
            raise
        raise CorruptExample(path, getattr(error, "strerror", None) or str(error)) from error


def _member(tar: Path, path: str) -> bytes:
    # Joined tars are called FILE.tar#2 and so on.
    file = tar.with_name(re.sub(r"#\d+$", "", tar.name))
    for found in tar_members(file):
        name = (
            f"{tar.with_name(found.archive)}/{found.name}" if isinstance(found, TarMember) else ""
        )
        if isinstance(found, TarMember) and name.lower() == path.lower():
            return found.data
    raise CorruptExample(path, "is not in its tar file")


def thumbnail(data: bytes, name: str) -> str:
    """Return an image as a small JPEG, a `data:` URI.

    Raises:
      CorruptExample: it cannot be decoded.
    """
    pixels = decode_image(data, name, min_height=SIDE, min_width=SIDE)
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return _uri("jpeg", cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), flags)[1])


def heat_overlay(scores: np.ndarray) -> str:
    """Return scores (g, g) as a PNG of g × g pixels to lie over the image: the lower, the more transparent."""
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / max(high - low, 1e-6)
    colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (255 * _HEAT_OPACITY * share).astype(np.uint8)[..., None]
    return _uri("png", cv2.imencode(".png", np.concatenate([colours, opacity], axis=2))[1])


def _uri(kind: str, data: np.ndarray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
