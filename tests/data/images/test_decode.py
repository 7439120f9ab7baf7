"""Decoding: pixels against Pillow or closed form, and damaged files."""

import io

import numpy as np
import pytest
from PIL import Image

from timix_jax.data.images.decode import decode_image, image_size
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
