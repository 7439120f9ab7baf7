"""The prepare command's tars that are joined, or damaged between two members."""

import bz2
import gzip
import io
import lzma
import os
import tarfile

import pytest
from prepare_inputs import all_records, picture

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest

_PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def tar_bytes(*keys, form=tarfile.GNU_FORMAT):
    """Return a tar with the sample `KEY.jpg`, `KEY.txt` for each key."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for key in keys:
            for name, data in ((f"{key}.jpg", picture(int(key))), (f"{key}.txt", key.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.mtime = 1.5 if form == tarfile.PAX_FORMAT else 0  # needs an extended header
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


def prepared(tmp_path, data, suffix=""):
    """Prepare one tar; return the keys, and the manifest's skipped and dropped entries."""
    tar = tmp_path / f"a.tar{suffix}"
    tar.write_bytes(data)
    out = tmp_path / "out"
    assert main(["webdataset", f"--shards={tar}", f"--out={out}", "--workers=1"]) == 0
    manifest = read_manifest(out)
    return [record.key for record in all_records(out)], manifest["skipped"], manifest["dropped"]


def unreadable(detail, suffix=""):
    return {"unreadable bytes in tar": {"count": 1, "first": [f"a.tar{suffix}: {detail}"]}}


@pytest.mark.parametrize("suffix", _PACK)
def test_joined_tars_are_read_whole(tmp_path, suffix):
    pack = _PACK[suffix]
    parts = [tar_bytes("0"), bytes(10_240), tar_bytes("1", "2"), tar_bytes("0")]
    keys, skipped, dropped = prepared(tmp_path, b"".join(map(pack, parts)), suffix)
    assert keys == ["0", "1", "2", "0"]  # each of the joined tars may number from 0
    assert (skipped, dropped) == ({}, {})


def test_empty_archive_in_front(tmp_path):
    assert prepared(tmp_path, bytes(10_240) + tar_bytes("0"))[0] == ["0"]


@pytest.mark.parametrize("zeros", [1, 2, 41])
def test_zeros_between_members_hide_nothing(tmp_path, zeros):
    data = tar_bytes("0", "1")
    middle = members(data)[2].offset
    data = data[:middle] + bytes(512 * zeros) + data[middle:]
    assert prepared(tmp_path, data) == (["0", "1"], {}, {})


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("damage", [bytes(512), b"\xff" * 512])
def test_damaged_header_loses_one_member(tmp_path, form, damage, suffix):
    data = bytearray(tar_bytes("0", "1", "2", form=form))
    image = members(bytes(data))[2]
    header = image.offset_data - 512
    data[header : header + 512] = damage
    keys, skipped, dropped = prepared(tmp_path, _PACK[suffix](bytes(data)), suffix)
    assert keys == ["0", "2"]
    assert skipped["missing image"]["first"] == [f"a.tar{suffix}/1: only txt"]
    lone = image.offset == header and not any(damage)  # zeros alone may be an end mark
    start = header + 512 if lone else image.offset
    count = image.offset_data + -(-image.size // 512) * 512 - start
    detail = f"{count:,} bytes from byte {start:,} on, behind a damaged header"
    assert dropped == unreadable(detail, suffix)


@pytest.mark.parametrize("suffix", _PACK)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_first_header_loses_one_member(tmp_path, form, suffix):
    data = bytearray(tar_bytes("0", "1", form=form))
    first, second = members(bytes(data))[:2]
    data[first.offset_data - 512 : first.offset_data] = b"\xff" * 512
    keys, skipped, dropped = prepared(tmp_path, _PACK[suffix](bytes(data)), suffix)
    assert keys == ["1"]
    assert skipped["missing image"]["first"] == [f"a.tar{suffix}/0: only txt"]
    detail = f"{second.offset:,} bytes from byte 0 on, behind a damaged header"
    assert dropped == unreadable(detail, suffix)


@pytest.mark.parametrize(
    "more",
    [b"x", b"<html>" * 1000, b"x" * 100 + tar_bytes("1"), gzip.compress(tar_bytes("1"))],
    ids=["a byte", "html", "a second archive", "gzip"],
)
def test_bytes_after_the_end_are_counted(tmp_path, more):
    first = tar_bytes("0")
    detail = f"{len(more):,} bytes from byte {len(first):,} on, after the end of the archive"
    assert prepared(tmp_path, first + more) == (["0"], {}, unreadable(detail))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_bytes_after_compressed_data_are_named(tmp_path, suffix):
    data = _PACK[suffix](tar_bytes("0")) + b"<html>" * 1000
    detail = "other bytes follow the end of the compressed data"
    assert prepared(tmp_path, data, suffix) == (["0"], {}, unreadable(detail, suffix))


def test_negative_size_ends_the_tar_but_not_the_run(tmp_path):
    data = bytearray(tar_bytes("0", "1"))
    start = members(bytes(data))[2].offset
    data[start + 124 : start + 136] = (-2048).to_bytes(12, "big", signed=True)
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    keys, _, dropped = prepared(tmp_path, bytes(data))
    assert keys == ["0"]
    assert dropped.keys() & {"truncated tar", "unreadable bytes in tar"}


def test_fifo_among_the_tars_is_named(tmp_path):
    os.mkfifo(tmp_path / "b.tar")
    (tmp_path / "a.tar").write_bytes(tar_bytes("0"))
    out = tmp_path / "out"
    assert main(["webdataset", f"--shards={tmp_path}/*.tar", f"--out={out}", "--workers=1"]) == 0
    assert read_manifest(out)["dropped"] == {
        "not a regular file": {"count": 1, "first": ["b.tar: a FIFO, socket or device"]}
    }
