"""The prepare command's formats `karpathy` and `table`, and side files of regions."""

import csv
import json

import pytest
from prepare_inputs import all_records, assert_fails, entry, karpathy, many_examples, picture

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest
from timix_jax.data.records.schema import Region
from timix_jax.data.sources.records import RecordSource


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


def test_unusable_input_is_counted_and_named(tmp_path, capsys):
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


def test_side_file_may_be_a_list_with_several_entries_per_key(tmp_path, many):
    file = tmp_path / "r.json"
    parts = [{"text": "ear", "box": [0, 0, 4, 4]}, {"text": "tail", "box": [5, 5, 4, 4]}]
    file.write_text(json.dumps([{"key": "03.jpg", "regions": [part]} for part in parts]))
    out = tmp_path / "out"
    assert main([*many, f"--out={out}", f"--regions={file}", "--num-shards=2"]) == 0
    source = RecordSource(out)
    assert source.annotated.tolist() == [3]
    assert [region.text for region in source[3].regions] == ["ear", "tail"]


def test_side_file_that_matches_nothing_is_reported(tmp_path, many, capsys):
    file = tmp_path / "r.jsonl"
    file.write_text('{"key": "3", "regions": [{"text": "ear", "box": [0, 0, 4, 4]}]}')
    assert main([*many, f"--out={tmp_path / 'out'}", f"--regions={file}"]) == 0
    assert f"warning: --regions {file}: no key" in capsys.readouterr().err


def make_table(tmp_path, data, *options, suffix=".csv"):
    """Write a table next to a.jpg and b.jpg; return the command line."""
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
def test_quote_that_swallows_rows_is_refused(tmp_path, capsys, suffix, data):
    argv = make_table(tmp_path, data, suffix=suffix)
    assert_fails(capsys, argv, "line 2: a quote", "--no-quotes")
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


def test_columns_with_the_same_name_are_refused(tmp_path, capsys):
    assert_fails(
        capsys, make_table(tmp_path, b"path,caption,caption\na.jpg,x,y\n"), "several columns"
    )


def test_text_that_utf8_cannot_encode_is_repaired(tmp_path):
    """Use lone surrogates, which JSON can escape, in captions, file names and region texts."""
    half = [{"text": "\ud83d tail", "box": [0, 0, 5, 5]}]
    entries = [
        entry("a.jpg", "a \ud83d dog", "a \ud83d\udc15", regions=half),
        entry("b\ud800.jpg", "x"),
        entry("a.jpg", "y", regions=[{"text": "far", "box": [10**400, 0, 5, 5]}]),
        entry("c.jpg", "none", regions=None),
    ]
    out = tmp_path / "out"
    assert (
        main(
            [
                *karpathy(tmp_path, entries, dict.fromkeys(["a.jpg", "c.jpg"], picture(0))),
                f"--out={out}",
            ]
        )
        == 0
    )
    first, last = all_records(out)
    assert first.captions == ("a � dog", "a 🐕")
    assert first.regions[0].text == "� tail"
    assert last.captions == ("none",)
    skipped = read_manifest(out)["skipped"]
    assert {reason: found["count"] for reason, found in skipped.items()} == {
        "malformed entry": 1,
        "missing image": 1,
    }


def test_entries_of_one_image_become_one_example(tmp_path):
    """Merge them, since separate examples would be negatives of each other in loss and retrieval."""
    images = {"sub/a.jpg": picture(0), "b.jpg": picture(1)}
    part = lambda text: [{"text": text, "box": [0, 0, 5, 5]}]
    entries = [
        entry("a.jpg", "one", filepath="sub", regions=part("ear")),
        entry("b.jpg", "other"),
        entry("sub/a.jpg", "two", regions=part("tail")),
        entry("./sub/a.jpg", "of another split") | {"split": "val"},
    ]
    side = tmp_path / "r.jsonl"
    side.write_text(json.dumps({"key": "sub/a.jpg", "regions": part("leg")}))
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}", f"--regions={side}"]) == 0
    first, second = all_records(out)
    assert (first.key, first.captions) == ("sub/a.jpg", ("one", "two"))
    assert [region.text for region in first.regions] == ["ear", "leg", "tail"]
    assert second.key == "b.jpg"


def test_malformed_entries_are_explained(tmp_path, capsys):
    bad = [{"filename": "a.jpg"}, {"sentences": []}, {"filename": "b.jpg", "sentences": ["text"]}]
    argv = karpathy(tmp_path, [{"split": "train", **e} for e in bad], {})
    end = f"--out={tmp_path / 'out'}"
    assert_fails(capsys, [*argv, end], 'the first: malformed entry a.jpg: has no list "sentences"')
    argv = karpathy(
        tmp_path,
        [entry("c.jpg", "c"), *({"split": "train", **e} for e in bad)],
        {"c.jpg": picture(0)},
    )
    assert main([*argv, end]) == 0
    assert read_manifest(tmp_path / "out")["skipped"]["malformed entry"]["first"] == [
        'a.jpg: has no list "sentences"',
        'images[2]: "filepath" \'\' and "filename" None must be strings',
        'b.jpg: one of its "sentences" has no string "raw"',
    ]


def test_side_file_with_byte_order_mark_and_line_separator(tmp_path, many):
    file = tmp_path / "r.jsonl"
    line = '{"key": "03.jpg", "regions": [{"text": "ear\u2028left", "box": [0, 0, 4, 4]}]}'
    for text in (line, f"[\n{line}\n]"):
        file.write_text("\ufeff" + text, encoding="utf-8")
        out = tmp_path / f"out{len(text)}"
        assert main([*many, f"--out={out}", f"--regions={file}"]) == 0
        assert [region.text for region in RecordSource(out)[3].regions] == ["ear left"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"key": "a", "regions": []}\n\n{"key" "b"}\n', "line 3 column 8: Expecting ':'"),
        ('\n[\n{"key": "a", "regions": []},\n{"key" "b"}]', "line 4 column 8: Expecting ':'"),
        ('{"key": "a", "regions": []}\n' + "[" * 100_000, "line 2: "),
    ],
)
def test_broken_json_in_a_side_file_is_located(tmp_path, many, capsys, text, where):
    file = tmp_path / "r.jsonl"
    file.write_text(text)
    argv = [*many, f"--out={tmp_path / 'out'}", f"--regions={file}"]
    assert_fails(capsys, argv, f"--regions {file}: {where}", "JSON lines")
