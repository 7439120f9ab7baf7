"""The prepare command's format `webdataset`: tar files that are valid, damaged or forged."""

import gzip
import io
import os
import tarfile
import time

import pytest
from prepare_inputs import all_records, assert_fails, picture, write_tar

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.prepare.webdataset import expand_braces
from timix_jax.data.records.manifest import read_manifest

GOOD = [("0.jpg", picture(0)), ("0.txt", b"c")]


def forge_size(data, start, size, kind=None):
    """Write a size in base 256, like GNU tar, into the header at `start`."""
    data[start + 124 : start + 136] = b"\x80" + size.to_bytes(11, "big")
    if kind:
        data[start + 156 : start + 157] = kind
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])


def test_webdataset(tmp_path):
    image = picture(0)
    write_tar(
        tmp_path / "00000.tar",
        [
            ("000.jpg", image), ("000.txt", b"a  dog\n"), ("000.json", b'{"caption": "a dog"}'),
            ("001.png", picture(1, kind="PNG")), ("001.json", b'{"caption": ["b", "c"]}'),
            ("002.json", b'{"caption": "download failed"}'),
            ("003.jpg", image), ("003.txt", b"kept"), ("003.json", b"{broken"),
            ("004.jpg", image), ("004.txt", b" "),
            ("../005.jpg", image), ("/006.jpg", image), ("007.jpg", None),
        ],
    )  # fmt: skip
    write_tar(tmp_path / "00001.tar", [("d/1.x.jpg", b"no key of this"), ("d/1.txt", b"q")])
    out = tmp_path / "out"
    regions = tmp_path / "r.jsonl"
    regions.write_text(
        '{"key": "000", "regions": [{"text": "ear", "box": [0, 0, 4, 4]}]}\n\n'
        '{"file": "003.jpg", "regions": [{"text": "leg", "box": [1, 1, 4, 4]}]}\n'
    )
    shards = f"--shards={tmp_path}/{{00000..00001}}.tar"
    assert main(["webdataset", shards, f"--out={out}", f"--regions={regions}", "--workers=1"]) == 0
    got = {r.key: (r.captions, [region.text for region in r.regions]) for r in all_records(out)}
    assert got == {
        "000": (("a dog",), ["ear"]), "001": (("b", "c"), []), "003": (("kept",), ["leg"]),
    }  # fmt: skip
    manifest = read_manifest(out)
    assert len(manifest["shards"]) == 2
    named = {reason: found["first"] for reason, found in manifest["skipped"].items()}
    assert named["unsafe tar path"] == ["00000.tar/../005.jpg", "00000.tar//006.jpg"]
    assert named["not a regular file"] == ["00000.tar/007.jpg"]
    assert named["no caption"] == ["004: all of them are empty"]
    assert named["missing image"] == [
        "00000.tar/002: only json", "00001.tar/d/1: only x.jpg, txt",
    ]  # fmt: skip
    assert manifest["dropped"]["unreadable JSON"]["count"] == 1


@pytest.mark.parametrize("where", ["in an image", "between members", "in a header"])
def test_truncated_tar_keeps_what_was_read(tmp_path, where):
    members = [
        (f"{i}.{e}", picture(i) if e == "jpg" else b"c") for i in range(4) for e in ("jpg", "txt")
    ]
    tar = tmp_path / "0.tar"
    write_tar(tar, members)
    with tarfile.open(tar) as archive:
        third = archive.getmembers()[4]
    cut = {"in an image": third.offset_data + 700, "between members": third.offset}
    os.truncate(tar, cut.get(where, third.offset + 100))
    write_tar(tmp_path / "1.tar", [("9.jpg", picture(9)), ("9.txt", b"c")])
    out = tmp_path / "out"
    assert main(["webdataset", f"--shards={tmp_path}/*.tar", f"--out={out}", "--workers=1"]) == 0
    assert [record.key for record in all_records(out)] == ["0", "1", "9"]
    truncated = read_manifest(out)["dropped"]["truncated tar"]
    assert truncated["count"] == 1
    assert truncated["first"][0].startswith("0.tar: ")


def test_braces_expand_like_in_a_shell():
    pattern = "a/{x,yz}-{08..11}.tar"
    expected = [f"a/{s}-{n}.tar" for s in ("x", "yz") for n in ("08", "09", "10", "11")]
    assert expand_braces(pattern) == expected
    assert expand_braces("plain*.tar") == ["plain*.tar"]


def test_members_without_a_key_and_damaged_headers(tmp_path, capsys):
    good = [("0.jpg", picture(0)), ("0.txt", b"c")]
    hidden = [("._0.jpg", b"finder"), ("d/.jpg", picture(1)), (".txt", b"q")]
    write_tar(
        tmp_path / "0.tar", [*hidden, *good, ("1.json", b"[" * 100_000), ("1.jpg", picture(1))]
    )
    write_tar(tmp_path / "1.tar", good)
    data = bytearray((tmp_path / "1.tar").read_bytes())
    forge_size(data, 0, 2**80, b"x")  # an extended header, which is read in one piece
    (tmp_path / "1.tar").write_bytes(data)
    out = tmp_path / "out"
    assert main(["webdataset", f"--shards={tmp_path}/*.tar", f"--out={out}", "--workers=1"]) == 0
    assert [record.key for record in all_records(out)] == ["0"]
    manifest = read_manifest(out)
    assert manifest["skipped"]["hidden file"]["count"] == 3
    assert manifest["dropped"]["unreadable JSON"]["count"] == 1
    assert manifest["dropped"]["truncated tar"]["first"][0].startswith("1.tar")
    (tmp_path / "no.tar").write_bytes(b"hello" * 1000)
    shards = f"--shards={tmp_path}/no.tar"
    assert_fails(
        capsys, ["webdataset", shards, f"--out={tmp_path / 'o'}", "--workers=1"], "truncated tar"
    )


@pytest.mark.parametrize("kind", [None, b"x"])
@pytest.mark.parametrize("packed", [False, True])
def test_forged_size_ends_the_tar_but_not_the_run(tmp_path, kind, packed):
    tar = tmp_path / "0.tar"
    write_tar(tar, [*GOOD, ("1.jpg", picture(1)), ("1.txt", b"d")])
    with tarfile.open(tar) as archive:
        start = archive.getmembers()[2].offset
    data = bytearray(tar.read_bytes())
    forge_size(data, start, 2**40, kind)
    tar.write_bytes(gzip.compress(data) if packed else data)
    write_tar(tmp_path / "1.tar", [("9.jpg", picture(9)), ("9.txt", b"c")])
    out = tmp_path / "out"
    assert main(["webdataset", f"--shards={tmp_path}/*.tar", f"--out={out}", "--workers=1"]) == 0
    assert [record.key for record in all_records(out)] == ["0", "9"]
    manifest = read_manifest(out)
    assert manifest["dropped"]["truncated tar"]["count"] == 1
    assert manifest["dropped"]["truncated tar"]["first"][0].startswith("0.tar: ")


def test_duplicate_key_in_a_tar_is_counted_and_named(tmp_path):
    """Refuse duplicates in a tar, negatives of each other; different tars may both number from 0."""
    again = [("0.jpg", picture(2)), ("0.txt", b"again")]
    write_tar(
        tmp_path / "0.tar",
        [("1.txt", b"early"), *GOOD, ("1.jpg", picture(1)), ("1.txt", b"d"), *again],
    )
    write_tar(tmp_path / "1.tar", [*GOOD, *again])
    out = tmp_path / "out"
    argv = ["webdataset", f"--shards={tmp_path}/*.tar", f"--out={out}", "--num-shards=1"]
    assert main([*argv, "--workers=1"]) == 0
    got = [(record.key, record.captions) for record in all_records(out)]
    assert got == [("0", ("c",)), ("1", ("d",)), ("0", ("c",))]
    manifest = read_manifest(out)
    assert manifest["skipped"]["duplicate key"]["first"] == ["0.tar/0"]
    assert manifest["skipped"]["missing image"]["count"] == 1
    assert manifest["dropped"]["duplicate member"]["first"] == ["1.tar/0.jpg", "1.tar/0.txt"]


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "is empty"), (b"<!doctype html>" * 99, "is not a tar file")]
)
def test_file_that_is_not_a_tar_has_one_short_reason(tmp_path, capsys, data, reason):
    (tmp_path / "0.tar").write_bytes(data)
    argv = ["webdataset", f"--shards={tmp_path}/0.tar", f"--out={tmp_path / 'out'}", "--workers=1"]
    assert_fails(capsys, argv, f"1 truncated tar (0.tar: {reason})")


@pytest.mark.parametrize(
    "braces", ["{0..99999999999}", "{0..9999}{0..9999}", "{1..2000}{,a}{1..900}"]
)
def test_braces_that_name_too_many_files_are_refused(tmp_path, capsys, braces):
    argv = ["webdataset", f"--shards={tmp_path}/{braces}.tar", f"--out={tmp_path / 'out'}"]
    start = time.monotonic()
    assert_fails(
        capsys, argv, f"--shards {tmp_path}/{braces}.tar: ", "more than 1,000,000 files", "smaller"
    )
    assert time.monotonic() - start < 60


def test_braces_may_name_a_million_files():
    assert len(expand_braces("{0..999}{1..1000}")) == 1_000_000


@pytest.mark.parametrize(
    ("extension", "kind"),
    [
        ("gif", "GIF"), ("bmp", "BMP"), ("tif", "TIFF"), ("tiff", "TIFF"), ("avif", "AVIF"),
        ("jfif", "JPEG"), ("jpe", "JPEG"), ("jp2", "JPEG2000"), ("ppm", "PPM"), ("tga", "TGA"), ("JPG", "JPEG"),
    ],
)  # fmt: skip
def test_images_of_other_names_become_jpeg(tmp_path, extension, kind):
    image = picture(0, kind=kind)
    write_tar(tmp_path / "0.tar", [(f"0.{extension}", image), ("0.txt", b"c")])
    out = tmp_path / "out"
    assert main(["webdataset", f"--shards={tmp_path}/0.tar", f"--out={out}", "--workers=1"]) == 0
    (record,) = all_records(out)
    assert record.image.startswith(b"\xff\xd8\xff")
    assert (record.image == image) == (kind == "JPEG")


def test_tar_of_a_folder_has_plain_keys(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, data in (*GOOD, ("sub/0.jpg", picture(1)), ("sub/0.txt", b"d"), ("._0.jpg", b"x")):
        (tmp_path / "in" / name).write_bytes(data)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "in", ".")  # as tar -C in -cf 0.tar .
        for name, data in (("./a/.//1.jpg", picture(2)), ("a/1.txt", b"e")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert "." in tar.getnames()
        assert "./0.jpg" in tar.getnames()
    regions = tmp_path / "r.jsonl"
    line = '{"key": "%s", "regions": [{"text": "ear", "box": [0, 0, 4, 4]}]}\n'
    regions.write_text("".join(line % key for key in ("0", "./sub/0.jpg", "a//1")))
    out = tmp_path / "out"
    argv = ["webdataset", f"--shards={tmp_path}/0.tar", f"--out={out}", f"--regions={regions}"]
    assert main([*argv, "--workers=1"]) == 0
    got = {record.key: len(record.regions) for record in all_records(out)}
    assert got == {"0": 1, "sub/0": 1, "a/1": 1}
    skipped = read_manifest(out)["skipped"]
    assert skipped == {"hidden file": {"count": 1, "first": ["0.tar/./._0.jpg"]}}
