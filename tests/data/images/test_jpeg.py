"""JPEGs with damage: kept where all pixels are there, refused where a scan is cut short."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from timix_jax.data.images.decode import decode_image, image_orientation, image_size
from timix_jax.data.images.jpeg_segments import strip_jpeg
from timix_jax.data.records.schema import CorruptExample

EOI = b"\xff\xd9"
KINDS = {
    "baseline": {},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 4},
    "progressive": {"progressive": True},
    "progressive restarts": {"progressive": True, "restart_marker_blocks": 6},
    "grey": {},
    "cmyk": {},
}
MODES = {"grey": "L", "cmyk": "CMYK"}


def encode(kind: str) -> bytes:
    y, x = np.mgrid[0:96, 0:160]
    noise = np.random.default_rng(0).normal(0, 8, (96, 160, 3))
    pixels = np.stack([x * 1.5, y * 2.5, 120 + 60 * np.sin(x / 15)], -1) + noise
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(
        MODES.get(kind, "RGB")
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, exif=exif, **KINDS[kind])
    return file.getvalue()


def first_scan(data: bytes) -> int:
    """Return where the entropy-coded data of the first scan start."""
    header = data.index(b"\xff\xda") + 2
    return header + int.from_bytes(data[header : header + 2], "big")


def insert(data: bytes, extra: bytes) -> bytes:
    """Insert bytes between two segments of the header."""
    tables = data.index(b"\xff\xdb")
    return data[:tables] + extra + data[tables:]


def segment(marker: int, payload: bytes, length: int | None = None) -> bytes:
    length = len(payload) + 2 if length is None else length
    return bytes((0xFF, marker)) + length.to_bytes(2, "big") + payload


WHOLE = {
    "garbage before the end": lambda b: b[:-2] + b"\x55" * 64 + EOI,
    "zeros before the end": lambda b: b[:-2] + bytes(64) + EOI,
    "little garbage": lambda b: b[:-2] + b"\x55" * 9 + EOI,
    "stuffed garbage": lambda b: b[:-2] + b"\xff\0" * 50 + EOI,
    "no end": lambda b: b[:-2],
    "half an end": lambda b: b[:-1],
    "zeros for the end": lambda b: b[:-2] + b"\0\0",
    "a block of zeros for the end": lambda b: b[:-2] + bytes(500),
    "unknown marker before the end": lambda b: b[:-2] + b"\x12\xff\x55\x33" + EOI,
    "another file for the end": lambda b: b[:-2] + b,
    "bytes after the end": lambda b: b + b"xyz" * 40,
    "garbage between segments": lambda b: insert(b, b"\x55\x66\x77"),
    "short Adobe segment": lambda b: insert(b, segment(0xEE, b"Adobe\0\0")),
    "short ICC profile": lambda b: insert(b, segment(0xE2, b"ICC_PROFILE\0")),
    "ICC profile of no part": lambda b: insert(b, segment(0xE2, b"ICC_PROFILE\0\0\0")),
    "short multi-picture index": lambda b: insert(b, segment(0xE2, b"MPF\0\x49\x49\x2a\0")),
    "short Photoshop segment": lambda b: insert(b, segment(0xED, b"Photoshop 3.0\08BIM\4\4\3")),
    "Photoshop length too small": lambda b: insert(b, segment(0xED, b"Photoshop 3.0\08BIM\4", 8)),
    "length zero": lambda b: insert(b, segment(0xED, b"", 0)),
    "short JFIF segment": lambda b: b[:2] + segment(0xE0, b"JFIF\0") + b[2:],
    "unknown JFIF version": lambda b: b.replace(b"JFIF\0\1\1", b"JFIF\0\x09\x09"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_beside_the_pixels_changes_nothing(kind):
    good = encode(kind)
    pixels, small = decode_image(good), decode_image(good, min_height=12, min_width=20)
    for damage, apply in WHOLE.items():
        damaged = apply(good)
        np.testing.assert_array_equal(decode_image(damaged, damage), pixels, damage)
        reduced = decode_image(damaged, damage, min_height=12, min_width=20)
        np.testing.assert_array_equal(reduced, small, damage)
        assert (image_size(damaged), image_orientation(damaged)) == ((96, 160), 6), damage


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "progressive" not in kind])
@pytest.mark.parametrize("parameters", [b"\0\0\0", b"\xff\1\2"])
def test_parameters_of_a_sequential_scan_mean_nothing(kind, parameters):
    good = encode(kind)
    start = first_scan(good)
    damaged = good[: start - 3] + parameters + good[start:]
    for data in (damaged, damaged[:-2], damaged[:-2] + b"\x55" * 64 + EOI):
        np.testing.assert_array_equal(decode_image(data), decode_image(good))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [b"", EOI, bytes(40), bytes(40) + EOI], ids=repr)
def test_scans_cut_short_are_refused(kind, end):
    good = encode(kind)
    start = first_scan(good)
    last_scan = good.rindex(b"\xff\xda") + 30
    cuts = [*np.linspace(last_scan, len(good) - 120, 12, dtype=int), start + 5]
    if end in (b"", EOI):  # zeros may happen to continue a scan
        cuts += range(len(good) - 12, len(good) - 2)
    for cut in cuts:
        damaged = good[:cut] + end
        for bounds in ({}, {"min_height": 12, "min_width": 20}):
            with pytest.raises(CorruptExample, match=r"^photo: cannot be decoded"):
                decode_image(damaged, "photo", **bounds)


@pytest.mark.parametrize("kind", ["baseline", "restarts", "progressive"])
def test_damage_inside_a_scan_is_refused_where_it_leaves_bytes_over(kind):
    good = encode(kind)
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(60):
        damaged, start = bytearray(good), int(rng.integers(first_scan(good), len(good) - 100))
        damaged[start : start + 16] = rng.bytes(16)
        with contextlib.suppress(CorruptExample):
            kept += decode_image(bytes(damaged)).shape == (96, 160, 3)
    assert kept < 30  # the rest decode without a complaint to other pixels


def test_a_missing_scan_is_refused_if_the_end_is_missing_too():
    good = encode("progressive")
    between_scans = good.rindex(b"\xff\xc4")
    with pytest.raises(CorruptExample, match="some of its scans are missing"):
        decode_image(good[:between_scans])


@pytest.mark.parametrize("sampling", [0x14, 0x31, 0x13])  # of luminance, across and down
def test_unusual_subsampling_is_decoded_and_a_cut_noticed(sampling):
    file = io.BytesIO()
    Image.new("RGB", (48, 64)).save(file, "JPEG", subsampling=0)
    header = bytearray(file.getvalue()[: first_scan(file.getvalue())])
    header[header.index(b"\xff\xc0") + 11] = sampling
    across, down = sampling >> 4, sampling & 15
    units = (48 // (8 * across)) * -(-64 // (8 * down))
    # In the standard tables: no difference, end of block; luminance blocks, then two of color.
    bits = ("001010" * (across * down) + "0000" * 2) * units
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    data = bytes(header) + scan
    assert (decode_image(data + EOI) == 128).all()
    for cut in (data[:-1], data[:-8], data[: len(header) + 9]):
        with pytest.raises(CorruptExample, match="cut short"):
            decode_image(cut + EOI)


def test_stripping_keeps_a_good_file_as_it_decodes():
    for kind in KINDS:
        good = encode(kind)
        np.testing.assert_array_equal(decode_image(strip_jpeg(good)), decode_image(good))
