"""EXIF orientation: pixels are as stored in every format, and rotate upright as Pillow does it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from timix_jax.data.images.decode import decode_image, image_orientation, image_size
from timix_jax.data.images.orientation import rotate_upright, undo_rotation

LOSSLESS = {"TIFF": {}, "PNG": {}, "WEBP": {"lossless": True}}
TIFF_COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "group4")


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def oriented(orientation: int, kind: str, mode: str = "RGB", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture(mode).save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", LOSSLESS)
def test_pixels_are_as_stored_and_rotate_upright(kind, orientation):
    data = oriented(orientation, kind, **LOSSLESS[kind])
    pixels = decode_image(data)
    np.testing.assert_array_equal(pixels, np.asarray(picture()))
    assert image_size(data) == (6, 10)
    assert image_orientation(data) == orientation
    upright = rotate_upright(pixels, orientation)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(undo_rotation(upright, orientation), pixels)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("compression", TIFF_COMPRESSIONS)
def test_compressed_tiffs_are_as_stored(compression, orientation):
    mode = "1" if compression == "group4" else "RGB"
    data = oriented(orientation, "TIFF", mode, compression=compression)
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture(mode).convert("RGB")))
    assert (image_size(data), image_orientation(data)) == ((6, 10), orientation)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "AVIF", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 1, 6, 9])
def test_unknown_orientations_count_as_upright(kind, orientation):
    data = oriented(orientation, kind)
    assert decode_image(data).shape == (6, 10, 3)
    assert image_orientation(data) == (6 if orientation == 6 else 1)


def test_no_image_is_upright():
    assert image_orientation(b"no image") == 1
