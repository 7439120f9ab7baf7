"""The formats that the prepare command reads."""

import csv
import json
import os
import tarfile

import pytest
from prepare_inputs import all_records, entry, fails, karpathy, many_examples, picture, write_tar

from timix_jax.data.manifest import read_manifest
from timix_jax.data.prepare.__main__ import main
from timix_jax.data.prepare.webdataset import expand_braces
from timix_jax.data.record_schema import Region
from timix_jax.data.records import RecordSource


@pytest.fixture
def many(tmp_path):
    return many_examples(tmp_path)


def test_karpathy(tmp_path, capsys):
    images = {"sub/a.jpg": picture(0), "b.png": picture(1, kind="PNG"), "c.jpg": picture(2)}
    entries = [
        entry("a.jpg", "a dog", "two dogs", filepath="sub"),
        entry("b.png", "a cat", regions=[{"text": "tail", "box": [1, 2, 3, 4]}]),
        entry("c.jpg", "validation") | {"split": "val"},
    ]
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}"]) == 0
    first, second = all_records(out)
    assert first == ("sub/a.jpg", images["sub/a.jpg"], ("a dog", "two dogs"), ())
    assert second == ("b.png", images["b.png"], ("a cat",), (Region("tail", (1, 2, 3, 4)),))
    manifest = read_manifest(out)
    assert manifest["name"] == "out"
    assert manifest["image_sizes"] == {
        "min_width": 40, "min_height": 30, "max_width": 40, "max_height": 30,
    }  # fmt: skip
    assert manifest["skipped"] == manifest["dropped"] == {}
    assert "2 images, 3 captions, 1 regions" in capsys.readouterr().out


def test_what_cannot_be_used_is_counted_and_named(tmp_path, capsys):
    good = picture(0)
    flipped = bytearray(good)
    flipped[len(good) // 2 : len(good) // 2 + 40] = b"\xff\xd9" * 20
    images = {"good.jpg": good, "cut.jpg": good[: len(good) // 2], "empty.jpg": b""}
    images |= {"text.jpg": b"<html>", "flip.jpg": bytes(flipped), "mute.jpg": good}
    entries = [entry(name, "a caption") for name in images if name not in ("good.jpg", "mute.jpg")]
    entries += [
        entry("good.jpg", " ", "kept", "", regions=[
            {"text": "", "box": [0, 0, 5, 5]}, {"text": "far", "box": [50, 0, 5, 5]},
            {"text": "edge", "box": [-5, 20, 15, 20]},
        ]),
        entry("mute.jpg", "", "  "), entry("gone.jpg", "x"), entry("../out.jpg", "x"),
        {"filename": "odd.jpg", "split": "train"},
    ]  # fmt: skip
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}", "--num-shards=3"]) == 0
    (record,) = all_records(out)
    assert (record.key, record.captions) == ("good.jpg", ("kept",))
    assert record.regions == (Region("edge", (0, 20, 10, 10)),)
    manifest = read_manifest(out)
    counts = {reason: found["count"] for reason, found in manifest["skipped"].items()}
    assert counts == {
        "corrupt image": 4, "malformed entry": 1, "missing image": 1, "no caption": 1,
        "unsafe path": 1,
    }  # fmt: skip
    dropped = {reason: found["count"] for reason, found in manifest["dropped"].items()}
    assert dropped == {"empty caption": 4, "empty region text": 1, "region outside the image": 1}
    named = " ".join(manifest["skipped"]["corrupt image"]["first"])
    assert all(name in named for name in ("cut.jpg", "empty.jpg", "text.jpg", "flip.jpg"))
    assert manifest["skipped"]["missing image"]["first"] == ["gone.jpg: No such file or directory"]
    assert "skipped 1 × missing image: gone.jpg" in capsys.readouterr().out


def test_table_joins_the_rows_of_an_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "b.jpg").write_bytes(picture(1))
    rows = [["title", "path", "alt"], ["one, quoted", "a.jpg", "x"], ["b", "b.jpg", ""]]
    rows += [["two", "./a.jpg", "y"], ["short", "a.jpg"], ["up", "../a.jpg", ""]]
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        file, out = tmp_path / f"t{suffix}", tmp_path / f"out{suffix}"
        with file.open("w", newline="") as stream:
            csv.writer(stream, delimiter=delimiter).writerows(rows)
        options = [f"--file={file}", f"--images={tmp_path}", f"--out={out}", "--workers=1"]
        columns = ["--caption-column=title", "--caption-column=alt"]
        assert main(["table", *options, *columns]) == 0
        got = {record.key: record.captions for record in all_records(out)}
        assert got == {"a.jpg": ("one, quoted", "x", "two", "y"), "b.jpg": ("b",)}
        skipped = read_manifest(out)["skipped"]
        assert skipped["malformed row"]["first"] == ["line 5: 2 cells, expected 3"]
        assert skipped["unsafe path"]["count"] == 1


def test_table_without_header(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "t.tsv").write_text("a caption\ta.jpg\n")
    options = ["table", f"--file={tmp_path / 't.tsv'}", f"--images={tmp_path}", "--no-header"]
    options += ["--path-column=1", "--caption-column=0", f"--out={tmp_path / 'out'}"]
    assert main(options) == 0
    assert all_records(tmp_path / "out")[0].captions == ("a caption",)


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


def test_braces_expand_as_in_a_shell():
    pattern = "a/{x,yz}-{08..11}.tar"
    expected = [f"a/{s}-{n}.tar" for s in ("x", "yz") for n in ("08", "09", "10", "11")]
    assert expand_braces(pattern) == expected
    assert expand_braces("plain*.tar") == ["plain*.tar"]


def test_side_file_in_a_list_and_split_over_entries(tmp_path, many):
    file = tmp_path / "r.json"
    parts = [{"text": "ear", "box": [0, 0, 4, 4]}, {"text": "tail", "box": [5, 5, 4, 4]}]
    file.write_text(json.dumps([{"key": "03.jpg", "regions": [part]} for part in parts]))
    out = tmp_path / "out"
    assert main([*many, f"--out={out}", f"--regions={file}", "--num-shards=2"]) == 0
    source = RecordSource(out)
    assert source.annotated.tolist() == [3]
    assert [region.text for region in source[3].regions] == ["ear", "tail"]


def test_side_file_that_fits_nothing_is_reported(tmp_path, many, capsys):
    file = tmp_path / "r.jsonl"
    file.write_text('{"key": "3", "regions": [{"text": "ear", "box": [0, 0, 4, 4]}]}')
    assert main([*many, f"--out={tmp_path / 'out'}", f"--regions={file}"]) == 0
    assert f"warning: --regions {file}: no key" in capsys.readouterr().err


def make_table(tmp_path, data, *options, suffix=".csv"):
    """Writes a table beside a.jpg and b.jpg; returns the command line."""
    for i, name in enumerate("ab"):
        (tmp_path / f"{name}.jpg").write_bytes(picture(i))
    file = tmp_path / f"t{suffix}"
    file.write_bytes(data)
    out = f"--out={tmp_path / 'out'}"
    return ["table", f"--file={file}", f"--images={tmp_path}", out, "--workers=1", *options]


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".tsv", b'path\tcaption\na.jpg\t"5 inch pipe\nb.jpg\tq\n'),
        (".tsv", b'path\tcaption\na.jpg\t"5 inch pipe\nb.jpg\tthe "end"\n'),
        (".csv", b'path,caption\na.jpg,"5 inch pipe\nb.jpg,q\n'),
    ],
)
def test_a_quote_that_swallows_rows_is_refused(tmp_path, capsys, suffix, data):
    argv = make_table(tmp_path, data, suffix=suffix)
    fails(capsys, argv, "line 2: a quote", "--no-quotes")
    assert main([*argv, "--no-quotes"]) == 0
    records = all_records(tmp_path / "out")
    assert [record.key for record in records] == ["a.jpg", "b.jpg"]
    assert records[0].captions == ('"5 inch pipe',)


def test_rows_with_odd_quotes_are_counted(tmp_path):
    data = b'\xef\xbb\xbfpath,caption\r\na.jpg,"Hello" he said\r\nb.jpg,"caf\xc3\xa9, ""two""\nlines"\r\n'
    assert main(make_table(tmp_path, data)) == 0
    (record,) = all_records(tmp_path / "out")
    assert record.captions == ('café, "two" lines',)
    assert read_manifest(tmp_path / "out")["skipped"]["malformed row"]["count"] == 1


def test_columns_of_one_name_are_refused(tmp_path, capsys):
    fails(capsys, make_table(tmp_path, b"path,caption,caption\na.jpg,x,y\n"), "several columns")


def test_text_that_utf8_cannot_hold(tmp_path):
    """JSON may escape half of a surrogate pair, in captions, file names and texts of regions."""
    half = [{"text": "\ud83d tail", "box": [0, 0, 5, 5]}]
    entries = [
        entry("a.jpg", "a \ud83d dog", "a \ud83d\udc15", regions=half),
        entry("b\ud800.jpg", "x"),
        entry("a.jpg", "y", regions=[{"text": "far", "box": [10**400, 0, 5, 5]}]),
        entry("a.jpg", "none", regions=None),
    ]
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, {"a.jpg": picture(0)}), f"--out={out}"]) == 0
    first, last = all_records(out)
    assert first.captions == ("a � dog", "a 🐕")
    assert first.regions[0].text == "� tail"
    assert last.captions == ("none",)
    skipped = read_manifest(out)["skipped"]
    assert {reason: found["count"] for reason, found in skipped.items()} == {
        "malformed entry": 1,
        "missing image": 1,
    }


def test_tar_members_without_a_key_and_damaged_headers(tmp_path, capsys):
    good = [("0.jpg", picture(0)), ("0.txt", b"c")]
    hidden = [("._0.jpg", b"finder"), ("d/.jpg", picture(1)), (".txt", b"q")]
    write_tar(
        tmp_path / "0.tar", [*hidden, *good, ("1.json", b"[" * 100_000), ("1.jpg", picture(1))]
    )
    # A size in base 256, as GNU tar writes it, of 2**80 bytes.
    write_tar(tmp_path / "1.tar", good)
    data = bytearray((tmp_path / "1.tar").read_bytes())
    data[124:136] = b"\x80" + (2**80).to_bytes(11, "big")
    data[156:157] = b"x"  # an extended header, which is read at once
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
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
    fails(capsys, ["webdataset", shards, f"--out={tmp_path / 'o'}", "--workers=1"], "truncated tar")
