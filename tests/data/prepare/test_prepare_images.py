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
