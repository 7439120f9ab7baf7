"""Copies of JPEG files without metadata, for decoders that fail over damaged metadata."""

import re

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restart markers belong to the scan
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_TABLES = (0xC4, 0xCC, 0xDB, 0xDD)  # Huffman, arithmetic conditioning, quantization, restart
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB)
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_OTHERS = (0xDC, *range(0xE0, 0xF0), 0xFE)  # markers of further segments with a length
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"


def strip_jpeg(data: bytes) -> bytes:
    """Return a JPEG file with only its frame, tables, scans, color model and EXIF data, then EOI.

    What a decoder would only warn of goes: bytes between segments, unknown markers, damaged
    application segments, wrong parameters of a sequential scan, a missing end.

    Raises:
      ValueError: scans are missing, or part of a progressive image's precision.
    """
    kept = [b"\xff\xd8"]
    frame, components = 0, b""
    missing_bits = dict[tuple[int, int], int]()  # of (component, coefficient); absent: all
    position = 2
    while (match := _MARKER.search(data, position)) is not None:
        marker, position = data[match.end() - 1], match.end()
        if marker == _EOI or (marker == _SOI and missing_bits):
            break
        if marker not in (_SOS, *_TABLES, *_FRAMES, *_OTHERS):
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        payload = data[position + 2 : end]
        position = max(end, position)
        if marker in _FRAMES:
            frame, components = marker, payload[6::3]
        elif marker == _SOS:
            if frame in _SEQUENTIAL:
                payload = payload[:-3] + b"\0\x3f\0"
            _count_precision(payload, frame in _PROGRESSIVE, missing_bits)
        elif marker not in _TABLES:
            payload = _kept_metadata(marker, payload)
            if not payload:
                continue
        kept.append(bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload)
        if marker == _SOS:
            scan_end = _SCAN_END.search(data, position)
            stop = scan_end.start() if scan_end else len(data)
            kept.append(data[position:stop])
            position = stop
    coefficients = range(64) if frame in _PROGRESSIVE else range(1)
    if any(missing_bits.get((c, k), 1) for c in components for k in coefficients):
        raise ValueError("some of its scans are missing")
    return b"".join(kept) + b"\xff\xd9"


def _count_precision(
    scan: bytes, progressive: bool, missing_bits: dict[tuple[int, int], int]
) -> None:
    """Record how many bits a scan, given the payload of its header, leaves out of each coefficient."""
    if len(scan) < 6:
        raise ValueError("a scan header is cut short")
    first, last, approximation = scan[-3:] if progressive else (0, 0, 0)
    for component in scan[1:-3:2]:
        for coefficient in range(first, min(last, 63) + 1):
            missing_bits[component, coefficient] = approximation & 15


def _kept_metadata(marker: int, payload: bytes) -> bytes:
    """Return what to keep of a segment that is not needed: EXIF data and what tells the color model."""
    if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= len(_JFIF):
        return _JFIF
    if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12 and payload[11] < 3:
        return payload
    return payload if marker == 0xE1 else b""
