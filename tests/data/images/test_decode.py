"""Decoding: pixels against Pillow or closed form, and damaged files."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from timix_jax.data.images.decode import FORMATS, decode_image, image_orientation, image_size
from timix_jax.data.records.schema import CorruptExample


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Return a smooth picture, 160 wide and 96 high."""
    y, x = np.mgrid[0:96, 0:160]
    pixels = np.stack([x * 1.5, y * 2.5, 120 + 60 * np.sin(x / 15)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_files_are_exact(photo, kind):
    data = encoded(photo, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data), np.asarray(photo))
    assert image_size(data) == (96, 160)


def test_jpeg_agrees_with_pillow(photo):
    data = encoded(photo, "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    pixels = decode_image(data)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - expected).max() <= 2
    assert image_size(data) == (96, 160)


def test_jpeg_is_decoded_small_but_never_too_small(photo):
    data = encoded(photo, "JPEG", quality=95)
    assert decode_image(data, min_height=48, min_width=80).shape == (48, 80, 3)
    assert decode_image(data, min_height=49, min_width=10).shape == (96, 160, 3)
    assert decode_image(data, min_height=12, min_width=12).shape == (12, 20, 3)
    half = decode_image(data, min_height=48, min_width=80).astype(float)
    mean = np.asarray(photo, float).reshape(48, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(half - mean).mean() < 2


def test_transparency_is_composited_on_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, :, 3] = (0, 128, 255)
    decoded = decode_image(encoded(Image.fromarray(pixels), "PNG")).astype(int)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded - expected).max() <= 1


def test_palette_with_transparent_entry():
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    decoded = decode_image(encoded(image, "PNG", transparency=0))
    expected = np.full((2, 4, 3), 255)
    expected[1, 1] = (200, 100, 50)
    np.testing.assert_array_equal(decoded, expected)
    opaque = decode_image(encoded(image, "PNG"))
    assert opaque[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("1", "PNG")])
def test_grey_becomes_rgb(mode, kind):
    decoded = decode_image(encoded(Image.new(mode, (9, 5), 255), kind))
    np.testing.assert_array_equal(decoded, np.full((5, 9, 3), 255))


def test_sixteen_bit_grey_is_scaled():
    values = np.array([[0, 0x1234], [0x8000, 0xFFFF]], np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(decoded[..., 1], [[0, 0x12], [0x80, 0xFF]])


def test_portable_greymaps_are_scaled_by_their_maximum():
    decoded = decode_image(b"P5\n3 1\n1000\n\0\0\0\2\3\xe8")  # 0, 2 and 1000 of 1000
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 255])
    assert decode_image(b"P5\n1 1\n65535\n\0\x63").max() == 0


@pytest.mark.parametrize("values", [[0, 70_000], [0, 200], [-1, 300], [0, 2**31 - 1]])
def test_wide_integers_of_unknown_range_are_refused(values):
    data = encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")
    with pytest.raises(CorruptExample, match=rf"^scan: .*values of {values[0]} to {values[1]}, "):
        decode_image(data, "scan")


def test_sixteen_bit_values_in_wide_storage_are_scaled():
    values = np.array([[0, 0x1234, 0xFFFF]])
    for dtype in (np.uint16, np.int32):
        decoded = decode_image(encoded(Image.fromarray(values.astype(dtype)), "TIFF"))
        np.testing.assert_array_equal(decoded[0, :, 2], [0, 0x12, 0xFF])


def test_cmyk_jpeg_agrees_with_pillow():
    data = encoded(Image.new("CMYK", (40, 30), (10, 120, 30, 40)), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data) - expected).max() <= 2


def test_exif_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(photo, "JPEG", exif=exif)).shape == (96, 160, 3)


def test_damaged_files_are_named(photo):
    jpeg, png = encoded(photo, "JPEG"), encoded(photo, "PNG")
    flipped = bytearray(jpeg)
    flipped[len(jpeg) // 2 : len(jpeg) // 2 + 2] = b"\xff\x55"
    for data in (
        b"", b"GIF89a", b"\xff\xd8\xffabc", jpeg[: len(jpeg) // 2], png[: len(png) // 2], png[:20],
        bytes(flipped),
    ):  # fmt: skip
        with pytest.raises(CorruptExample, match=r"^photo-7: "):
            decode_image(data, "photo-7")
    with pytest.raises(CorruptExample, match=r"^photo-7: "):
        image_size(b"", "photo-7")


def png_chunk(kind: bytes, payload: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + payload) if checksum is None else checksum
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"eXIf", b"junk"),
        png_chunk(b"eXIf", b""),
        png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   12\nno hex"),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nzz")),
        png_chunk(b"zTXt", b"key\0\x07unknown compression"),
        png_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(3_000_000))),
        png_chunk(b"tEXt", b"key\0wrong checksum", 1),
        png_chunk(b"iCCP", b"x\0\5unknown compression"),
        png_chunk(b"pHYs", b"short"),
        png_chunk(b"gAMA", b""),
        png_chunk(b"sRGB", b""),
        png_chunk(b"acTL", b"short"),
        png_chunk(b"fcTL", b"short"),
    ],
    ids=repr,
)
def test_damaged_metadata_of_a_png_cost_no_pixels(photo, chunk):
    data = encoded(photo, "PNG")
    for place in (33, len(data) - 12):  # before the pixels and after them
        damaged = data[:place] + chunk + data[place:]
        np.testing.assert_array_equal(decode_image(damaged), np.asarray(photo))
        assert (image_size(damaged), image_orientation(damaged)) == ((96, 160), 1)


def test_orientation_of_a_png_outlives_other_damaged_metadata(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo, "PNG", exif=exif)
    damaged = data[:33] + png_chunk(b"tEXt", b"key\0wrong checksum", 1) + data[33:]
    assert image_orientation(damaged) == 6


def test_png_without_its_end_is_whole_until_pixels_are_missing(photo):
    data = encoded(photo, "PNG")
    end = data.rindex(b"IEND") - 4
    for cut in range(end - 4, len(data)):  # the checksum of the pixel data, and the last chunk
        np.testing.assert_array_equal(decode_image(data[:cut]), np.asarray(photo))
    for cut in (end - 40, end // 2, 60):
        with pytest.raises(CorruptExample, match="cannot be decoded"):
            decode_image(data[:cut])


@pytest.mark.parametrize("level", [0, 9])
def test_damaged_pixel_data_of_a_png_are_refused_or_decode_the_same(level):
    """Pillow stops reading at the last row, before the checksum that tells damage."""
    y, x = np.mgrid[0:40, 0:50]
    data = encoded(Image.fromarray((x + y).astype(np.uint8)), "PNG", compress_level=level)
    expected, refused = decode_image(data), 0
    for place in range(data.index(b"IDAT") + 4, len(data) - 16):
        damaged = data[:place] + bytes((data[place] ^ 128,)) + data[place + 1 :]
        try:
            np.testing.assert_array_equal(decode_image(damaged), expected)
        except CorruptExample:
            refused += 1
    assert refused


def test_the_checksum_of_the_compressed_stream_of_a_png_is_enough(photo):
    data = encoded(photo, "PNG")
    end = data.rindex(b"IEND") - 8
    damaged = data[:end] + b"\0\0\0\0" + data[end + 4 :]
    np.testing.assert_array_equal(decode_image(damaged), np.asarray(photo))


def test_a_palette_cannot_be_missing(photo):
    data = encoded(photo.quantize(16), "PNG")
    with pytest.raises(CorruptExample, match="palette is missing"):
        decode_image(data.replace(b"PLTE", b"pLTE"))


def test_a_damaged_file_prints_no_warning(photo, recwarn):
    data = encoded(photo, "TIFF")
    with pytest.raises(CorruptExample):
        decode_image(data[:-5])
    assert not recwarn


def test_junk_for_exif_data_is_upright(photo):
    for kind in ("JPEG", "WEBP"):
        data = encoded(photo, kind, exif=b"Exif\0\0" + b"junk" * 9)
        assert decode_image(data).shape == (96, 160, 3)
        assert image_orientation(data) == 1


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("JPEG", "ICO")])
def test_every_named_format_is_decoded(photo, kind):
    assert decode_image(encoded(photo, kind)).shape == (96, 160, 3)


def test_no_file_starts_a_program(tmp_path, monkeypatch):
    """Postscript named as an image would start Ghostscript, here a stub that leaves a trace."""
    trace = tmp_path / "trace"
    stub = tmp_path / "gs"
    stub.write_text(f"#!{sys.executable}\nopen({str(trace)!r}, 'w')\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    header = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    for data in (header, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, 99) + bytes(18) + header):
        for read in (decode_image, image_size):
            with pytest.raises(CorruptExample, match=r"^x: .*no supported format \(JPEG, PNG, "):
                read(data, "x")
        assert image_orientation(data) == 1
    assert not trace.exists()
