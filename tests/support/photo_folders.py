"""Folders and tar files of small pictures, some with captions, and the command that embeds them."""

import io
import struct
import tarfile
import zlib

import cv2
import numpy as np

from timix_jax.embed import __main__ as embed


def picture(seed, side=20):
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8), (side + seed % 7, side))
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_photos(folder, count):
    """Write pictures in several folders, of which every third has a caption."""
    for index in range(count):
        path = folder / f"{'ab'[index % 2]}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
        if index % 3 == 0:
            path.with_suffix(".txt").write_text(f"a red square near\nthe sea {index}\n")
    return folder


def run_embed(*arguments):
    """Run the command line and return its exit code."""
    return embed.main([*map(str, arguments), "--compile-cache="])


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def png_header(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
