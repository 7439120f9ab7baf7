"""PNG files by their chunks: what Pillow does not check, and copies without metadata."""

import zlib
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_CHECKED_AT_ONCE = 1 << 16  # bytes; inflated, they are at most a thousand times as many
_COLOR_TYPE, _PALETTE = 25, 3  # offset in the file; the type whose pixels need a palette


def check_png(data: bytes) -> None:
    """Check what Pillow does not: the checksums of the pixel data, and that a palette is there.

    A chunk with a wrong checksum is accepted if the compressed stream as a whole has the right one.

    Raises:
      ValueError: pixels are damaged, or their palette is missing.
    """
    chunks = list(_chunks(data))
    pixels = [chunk for chunk in chunks if chunk[0] == b"IDAT"]
    wrong = [chunk for chunk in pixels if chunk[2] != _checksum(*chunk[:2])]
    if wrong:
        # The end of the file may cut the checksum off; decoding tells whether it cuts pixels, too.
        cut = len(wrong) == 1 and len(wrong[0][2]) < 4
        if not _is_intact(b"".join(payload for _, payload, _ in pixels), cut):
            raise ValueError("its pixel data do not have their checksum")
    kinds = {kind for kind, _, _ in chunks}
    if data[_COLOR_TYPE : _COLOR_TYPE + 1] == bytes((_PALETTE,)) and b"PLTE" not in kinds:
        raise ValueError("its palette is missing")


def strip_png(data: bytes) -> bytes:
    """Return a PNG file with only the chunks that its pixels depend on, and undamaged EXIF data.

    Pixel data that the end of the file cuts become a chunk of their own: they may be complete, where
    only their checksum is missing.
    """
    kept = [PNG_MAGIC]
    for kind, payload, checksum in _chunks(data):
        if kind in (b"IHDR", b"PLTE", b"tRNS"):
            kept.append(_chunk(kind, payload, checksum))
        elif kind == b"IDAT" or (kind == b"eXIf" and checksum == _checksum(kind, payload)):
            kept.append(_chunk(kind, payload, _checksum(kind, payload)))
    return b"".join(kept) + _chunk(b"IEND", b"", _checksum(b"IEND", b""))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield kind, payload and checksum of each chunk; the end of the file may cut the last one."""
    start = len(PNG_MAGIC)
    while start + 8 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start + 8 : end], data[end : end + 4]
        start = end + 4


def _chunk(kind: bytes, payload: bytes, checksum: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + kind + payload + checksum


def _checksum(kind: bytes, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(kind)).to_bytes(4, "big")


def _is_intact(stream: bytes, cut: bool) -> bool:
    """Return True if a zlib stream has its own checksum, or if `cut` is valid as far as it goes."""
    inflate = zlib.decompressobj()
    try:
        for start in range(0, len(stream), _CHECKED_AT_ONCE):
            inflate.decompress(stream[start : start + _CHECKED_AT_ONCE])
    except zlib.error:
        return False
    return inflate.eof or cut
