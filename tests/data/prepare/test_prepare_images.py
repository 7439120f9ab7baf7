"""The prepare command's treatment of images."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from prepare_inputs import (
    all_records,
    entry,
    karpathy,
    picture,
)

from timix_jax.data.images.decode import decode_image
from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest
from timix_jax.data.records.schema import CorruptExample, Region


def test_large_images_shrink_with_their_boxes(tmp_path):
    images = {"wide.jpg": picture(0, 80, 40), "small.jpg": picture(1, 20, 30)}
    region = [{"text": "part", "box": [8, 4, 40, 20]}]
    entries = [entry(name, "c", regions=region[: name == "wide.jpg"]) for name in images]
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}", "--max-size=40"]) == 0
    wide, small = all_records(out)
    assert decode_image(wide.image).shape == (20, 40, 3)
    assert wide.regions == (Region("part", (4, 2, 20, 10)),)
    assert small.image == images["small.jpg"]
    manifest = read_manifest(out)
    assert (manifest["reencoded"], manifest["image_sizes"]["max_width"]) == (1, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images_are_stored_upright(tmp_path, orientation):
    smooth = Image.fromarray(np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    smooth.convert("RGB").save(file, "JPEG", quality=95, exif=exif)
    out = tmp_path / "out"
    argv = karpathy(tmp_path, [entry("a.jpg", "c")], {"a.jpg": file.getvalue()})
    assert main([*argv, f"--out={out}"]) == 0
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)), np.int32)
    stored = decode_image(all_records(out)[0].image).astype(np.int32)
    assert stored.shape == expected.shape
    assert np.abs(stored - expected).mean() < 2


def spotted(orientation: int, kind: str) -> bytes:
    """Encode a dark picture, 48 wide and 32 high as stored, whose upper left 16 x 8 pixels are bright."""
    pixels = np.full((32, 48, 3), 30, np.uint8)
    pixels[:8, :16] = 230
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "AVIF", "MPO"])
def test_orientation_in_every_format(tmp_path, kind):
    images = {f"{i}.x": spotted(i, kind) for i in range(1, 9)}
    out = tmp_path / "out"
    argv = karpathy(tmp_path, [entry(name, "c") for name in images], images)
    assert main([*argv, f"--out={out}"]) == 0
    corners = ((0, 0), (0, -1), (-1, -1), (-1, 0))  # which of them shows the spot, by orientation
    for i, record in enumerate(all_records(out), start=1):
        pixels = decode_image(record.image)
        assert pixels.shape == ((32, 48, 3) if i < 5 else (48, 32, 3))
        assert [c for c in corners if pixels[c].min() > 200] == [corners[(i - 1) % 4]]


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "AVIF", "MPO"])
def test_boxes_stay_on_the_picture_in_every_orientation(tmp_path, kind):
    box = [{"text": "spot", "box": [0, 0, 16, 8]}]
    images = {f"{i}.x": spotted(i, kind) for i in range(10) if i or kind != "TIFF"}
    argv = karpathy(tmp_path, [entry(name, "c", regions=box) for name in images], images)
    out = tmp_path / "out"
    assert main([*argv, f"--out={out}"]) == 0
    for record in all_records(out):
        assert record.regions == (Region("spot", (0, 0, 16, 8)),)
        inside = np.zeros((32, 48), bool)
        inside[:8, :16] = True
        pixels = decode_image(record.image)
        assert pixels[inside].mean() > 200 > 60 > pixels[~inside].mean()


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP"])
def test_bytes_are_kept_where_nothing_has_to_change(tmp_path, kind):
    images = {f"{i}.x": spotted(i, kind) for i in (0, 1, 9)}
    if kind == "JPEG":
        good = images["1.x"]
        images["garbage.x"] = good[:-2] + b"\x55" * 64 + good[-2:]
        images["no end.x"] = good[:-2] + b"\0\0"
        images["metadata.x"] = good[:2] + b"\xff\xee\0\x09Adobe\0\0" + good[2:]
    out = tmp_path / "out"
    argv = karpathy(tmp_path, [entry(name, "c") for name in images], images)
    assert main([*argv, f"--out={out}"]) == 0
    assert {record.key: record.image for record in all_records(out)} == images
    assert read_manifest(out)["reencoded"] == 0


def test_unusable_images_are_counted_with_the_same_words_each_time(tmp_path):
    good = picture(0, 160, 96)
    images = {
        "cut.jpg": good[:-200] + b"\xff\xd9",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "empty.png": b"",
        "half.webp": picture(1, kind="WEBP")[:40],
        "half.tif": picture(1, kind="TIFF")[:40],
        "good.jpg": good,
    }
    argv = karpathy(tmp_path, [entry(name, "c") for name in images], images)
    skipped = []
    for out in (tmp_path / "out1", tmp_path / "out2"):
        assert main([*argv, f"--out={out}"]) == 0
        skipped.append(read_manifest(out)["skipped"])
    assert skipped[0] == skipped[1]
    assert skipped[0]["corrupt image"]["count"] == 5
    assert "0x" not in str(skipped)


def test_other_formats_become_jpeg(tmp_path):
    argv = karpathy(tmp_path, [entry("a.gif", "c")], {"a.gif": picture(0, kind="GIF")})
    assert main([*argv, f"--out={tmp_path / 'out'}"]) == 0
    assert all_records(tmp_path / "out")[0].image.startswith(b"\xff\xd8\xff")


def test_forged_size_takes_no_memory():
    """Forge a JPEG of a few kilobytes that claims 65,000 x 65,000 pixels, 12.7 GB decoded."""
    data = bytearray(picture(0))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(CorruptExample, match="65000x65000 pixels, above the limit"):
        decode_image(bytes(data))
