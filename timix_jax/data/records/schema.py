"""The schema of an example and its msgpack encoding."""

import math
from typing import NamedTuple

import msgpack

VERSION = 1
_NUMBER = (int, float)  # built once, since every record is checked when it is read


class Region(NamedTuple):
    """A text about part of an image (docs/method.md §2).

    Attributes:
      text: what the part shows; not empty.
      box: x, y, width, height in pixels of the stored image; finite, width and height positive.
      captions: indices of the record's captions that mention this region; empty if unknown.
    """

    text: str
    box: tuple[float, float, float, float]
    captions: tuple[int, ...] = ()


class Record(NamedTuple):
    """One image with its captions.

    Attributes:
      key: name of the example within its data set; not empty.
      image: an encoded JPEG, PNG or WebP file.
      captions: at least one, none empty.
      regions: annotated parts; empty for most data sets.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()


class CorruptExample(ValueError):  # noqa: N818 - callers treat it as a value to skip and count
    """A stored example that cannot be used; `key` names it, `reason` says why."""

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def validate_record(record: Record) -> None:
    """Check a record against the schema.

    Raises:
      ValueError: a field is invalid; the message names it.
    """
    if not isinstance(record.key, str) or not record.key:
        raise ValueError(f"key must be a non-empty string, got {record.key!r}")
    if not isinstance(record.image, bytes) or not record.image:
        raise ValueError(f"image must be non-empty bytes, got {type(record.image).__name__}")
    if not record.captions:
        raise ValueError("captions must hold at least one caption")
    for caption in record.captions:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"captions must be non-empty strings, got {caption!r}")
    for region in record.regions:
        _validate_region(region, len(record.captions))


def _validate_region(region: Region, num_captions: int) -> None:
    if not isinstance(region.text, str) or not region.text.strip():
        raise ValueError(f"region text must be a non-empty string, got {region.text!r}")
    numbers = all(isinstance(v, _NUMBER) and math.isfinite(v) for v in region.box)
    if len(region.box) != 4 or not numbers or region.box[2] <= 0 or region.box[3] <= 0:
        raise ValueError(f"region box must be x, y, width > 0, height > 0, got {region.box!r}")
    if not all(isinstance(i, int) and 0 <= i < num_captions for i in region.captions):
        raise ValueError(
            f"region captions must index the {num_captions} captions, got {region.captions!r}"
        )


def encode_record(record: Record) -> bytes:
    """Encode a record as msgpack.

    Raises:
      ValueError: the record violates the schema (see `validate_record`).
    """
    validate_record(record)
    regions = [
        [region.text, [float(v) for v in region.box], list(region.captions)]
        for region in record.regions
    ]
    return msgpack.packb([VERSION, record.key, record.image, list(record.captions), regions])


def decode_record(data: bytes, name: str = "record") -> Record:
    """Decode the bytes written by `encode_record`.

    Args:
      data: the bytes.
      name: identifies an unreadable record in the error.

    Raises:
      CorruptExample: the bytes are not a valid record.
    """
    try:
        version, key, image, captions, regions = msgpack.unpackb(data)
        if version != VERSION:
            raise ValueError(f"schema version {version!r}, expected {VERSION}")
        record = Record(
            key,
            image,
            tuple(captions),
            tuple(Region(text, tuple(box), tuple(indices)) for text, box, indices in regions),
        )
        validate_record(record)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptExample(name, f"not a valid record: {error}") from error
    return record
