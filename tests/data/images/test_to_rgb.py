"""Conversion to 8-bit RGB: wide values, transparency, and what is refused."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from timix_jax.data.images.decode import decode_image
from timix_jax.data.records.schema import CorruptExample


def encoded(values: np.ndarray, kind: str = "TIFF", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def ramp(low: float, high: float, dtype: type) -> np.ndarray:
    return np.linspace(low, high, 256).astype(dtype).reshape(4, 64)


def png(depth: int, values: list[int], transparent: int) -> bytes:
    """Encode one row of grey samples of any depth."""
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", len(values), 1, depth, 0, 0, 0, 0),
        b"tRNS": struct.pack(">H", transparent),
        b"IDAT": zlib.compress(row),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14])
def test_grey_of_few_bits_in_wide_storage_is_refused(bits):
    high = 2**bits - 1
    for data in (
        encoded(ramp(0, high, np.uint16), "PNG"),
        encoded(ramp(0, high, np.uint16)),
        encoded(ramp(0, high, np.int32)),
    ):
        with pytest.raises(CorruptExample, match=f"grey values of 0 to {high}, not plainly"):
            decode_image(data)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_black_and_full_range_are_plain(dtype):
    assert (decode_image(encoded(np.zeros((3, 4), dtype))) == 0).all()
    full = ramp(0, 0xFFFF, dtype)
    np.testing.assert_array_equal(decode_image(encoded(full))[..., 0], full >> 8)


@pytest.mark.parametrize("limit", [1, 255, 65535])
def test_floats_of_a_plain_range_are_scaled(limit):
    values = ramp(0, 1, np.float32)
    for kind in ("TIFF", "PPM"):
        decoded = decode_image(encoded(values * np.float32(limit), kind)).astype(int)
        assert np.abs(decoded[..., 1] - values * 255).max() <= 1
        assert (decoded.min(), decoded.max()) == (0, 255)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 2), (-1, 1), (0, 0.1), (0, 1000), (np.nan, 1), (0, np.inf), (-3, 200)]
)
def test_floats_of_unknown_range_are_refused(low, high):
    values = np.array([[low, high]], np.float32)
    with pytest.raises(CorruptExample, match=r"float grey values of .*, not plainly"):
        decode_image(encoded(values))


@pytest.mark.parametrize(
    ("depth", "values", "transparent", "expected"),
    [
        (16, [0, 0x1234, 0x1235, 0xFFFF], 0x1234, [0, 255, 0x12, 255]),
        (8, [0, 5, 9], 5, [0, 255, 9]),
        (4, [0, 5, 9], 5, [0, 255, 153]),
        (2, [0, 1, 2], 1, [0, 255, 170]),
        (1, [1, 0, 0], 0, [255, 255, 255]),
    ],
)
def test_transparent_grey_becomes_white(depth, values, transparent, expected):
    decoded = decode_image(png(depth, values, transparent))
    np.testing.assert_array_equal(decoded, np.repeat(np.array(expected)[None, :, None], 3, 2))


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colors_are_scaled_or_refused(channels):
    colors = np.random.default_rng(0).integers(0, 0x10000, (5, 6, channels), np.uint16)
    colors[..., 3:] = 0xFFFF
    encode = lambda pixels: cv2.imencode(".png", pixels)[1].tobytes()
    np.testing.assert_array_equal(decode_image(encode(colors)), colors[..., 2::-1] >> 8)
    for bits in (8, 12):
        dark = colors.copy()
        dark[..., :3] >>= 16 - bits
        with pytest.raises(CorruptExample, match=f"color values of at most {2**bits - 1}, not"):
            decode_image(encode(dark))


def test_transparent_sixteen_bit_color_becomes_white():
    colors = np.full((1, 2, 3), 0xFF00, np.uint16)
    colors[0, 0] = (0x1102, 0x2204, 0x3306)  # blue, green, red
    data = cv2.imencode(".png", colors)[1].tobytes()
    chunk = b"tRNS" + struct.pack(">HHH", 0x3306, 0x2204, 0x1102)
    chunk = struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert decode_image(data)[0, 0].tolist() == [0x33, 0x22, 0x11]
    assert (decode_image(data[:33] + chunk + data[33:]) == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_in_which_zero_is_white_is_inverted(dtype):
    values = ramp(0, np.iinfo(dtype).max, dtype)
    data = bytearray(encoded(values))
    photometric = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    black_is_zero = decode_image(bytes(data))
    data[photometric] = 0
    np.testing.assert_array_equal(decode_image(bytes(data)), 255 - black_is_zero)


def test_twelve_bits_that_a_tiff_states_are_scaled():
    data = bytearray(encoded(np.zeros((1, 2), np.uint16)))
    bits = data.index(struct.pack("<HHI", 258, 3, 1)) + 8
    offset = struct.unpack("<I", data[data.index(struct.pack("<HH", 273, 4)) + 8 :][:4])[0]
    data[bits] = 12
    data[offset : offset + 3] = b"\x80\x0f\xff"  # 0x800, 0xFFF
    assert decode_image(bytes(data))[0, :, 0].tolist() == [0x80, 0xFF]
