"""The prepare command's format `table`."""

import csv

import pytest
from prepare_inputs import all_records, assert_fails, picture

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest


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
