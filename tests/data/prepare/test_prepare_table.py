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


@pytest.mark.parametrize("header", [b"path,caption,caption", b"image,Title,Title"])
def test_columns_with_the_same_name_are_refused(tmp_path, capsys, header):
    assert_fails(capsys, make_table(tmp_path, header + b"\na.jpg,x,y\n"), "several columns")


def test_another_separator_between_quoted_cells_is_named(tmp_path, capsys):
    argv = make_table(tmp_path, b'"path";"caption"\n"a.jpg";"a dog, black; two"\n')
    assert_fails(capsys, argv, "line 1", "give --separator semicolon")
    assert main([*argv, "--separator=;"]) == 0


def test_utf16_without_a_mark_is_named(tmp_path, capsys):
    argv = make_table(tmp_path, "path,caption\na.jpg,x\n".encode("utf-16-le"))
    assert_fails(capsys, argv, "line 1 has NUL characters, as in UTF-16", "iconv")


def test_names_from_the_data_stay_on_one_line(tmp_path, capsys):
    long, broken = "x" * 5000, "no\nsuch\x1b[31m.jpg"
    argv = make_table(tmp_path, f'path,caption\n{long},x\n"{broken}",y\na.jpg,z\n'.encode())
    assert main(argv) == 0
    skipped = read_manifest(tmp_path / "out")["skipped"]["missing image"]
    assert skipped == {
        "count": 2,
        "first": [
            f"{long[:300]}…: File name too long",
            r"no\nsuch\x1b[31m.jpg: No such file or directory",
        ],
    }
    assert all(len(line) < 600 for line in capsys.readouterr().out.splitlines())
    assert_fails(capsys, make_table(tmp_path, f"path,caption\n../{long},x\n".encode()), "xxx…")


@pytest.mark.parametrize(
    ("suffix", "character", "name"),
    [
        (".csv", "\t", "tab"),
        (".csv", ";", "semicolon"),
        (".csv", "|", "pipe"),
        (".tsv", ",", "comma"),
    ],
)
def test_another_separator_is_named(tmp_path, capsys, suffix, character, name):
    data = f"path{character} caption\na.jpg{character} a dog\n".encode()
    argv = make_table(tmp_path, data, suffix=suffix)
    assert_fails(capsys, argv, f"seem to be separated by a {name}: give --separator {name}")
    headless = [*argv, "--no-header", "--path-column=0", "--caption-column=1"]
    assert_fails(capsys, headless, f"seem to be separated by a {name}: give --separator {name}")
    assert main([*argv, f"--separator={name}"]) == 0
    assert main([*argv, f"--separator={character}", "--workers=2"]) == 0  # the same command
    assert all_records(tmp_path / "out")[0].captions == ("a dog",)


@pytest.mark.parametrize("text", ["", "ab", "\n", '"', "commas"])
def test_separator_is_one_character(tmp_path, capsys, text):
    argv = make_table(tmp_path, b"path,caption\na.jpg,x\n", f"--separator={text}")
    assert_fails(capsys, argv, "argument --separator", "semicolon")


@pytest.mark.parametrize(
    ("header", "captions"),
    [
        ("filepath,title", ("first",)),
        ("FilePath,TITLE", ("first",)),
        ("\ufefffilepath,title", ("first",)),
        ("url,caption", ("first",)),
        ('image,"text"', ("first",)),
        ("file_name, text ", ("first",)),
        ("path,title,caption,filepath", ("second",)),  # in order of preference
        ("filepath,text,title,url", ("second",)),
        ("url,caption,title,path", None),  # path is no file here
    ],
)
def test_usual_column_names_need_no_option(tmp_path, capsys, header, captions):
    row = ["a.jpg", "first", "second", "b.jpg"][: header.count(",") + 1]
    argv = make_table(tmp_path, f"{header}\n{','.join(row)}\n".encode())
    assert main(argv) == 0
    (record,) = all_records(tmp_path / "out")
    assert (record.key, record.captions) == (
        ("a.jpg", captions) if captions else ("b.jpg", ("first",))
    )


def test_given_columns_have_no_substitute(tmp_path, capsys):
    argv = make_table(tmp_path, b"filepath,title\na.jpg,x\n")
    assert_fails(capsys, [*argv, "--path-column=image"], "--path-column image: not in", "filepath")
    assert_fails(capsys, [*argv, "--caption-column=caption"], "--caption-column caption: not in")


@pytest.mark.parametrize(
    ("encoding", "place"), [("latin-1", "0xe9 in line 2"), ("utf-16", "in line 1")]
)
def test_table_in_another_encoding_is_refused(tmp_path, capsys, encoding, place):
    argv = make_table(tmp_path, "path,caption\na.jpg,café\n".encode(encoding))
    assert_fails(
        capsys, argv, "not UTF-8", place, f"iconv -f {encoding.replace('latin-', 'latin')}"
    )


def test_absolute_paths_below_the_image_folder(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    (tmp_path / "outside").symlink_to("/etc")
    paths = [
        tmp_path / "a.jpg",
        "a.jpg",
        link / "a.jpg",
        f"/{tmp_path}/b.jpg",
        f"{tmp_path}/./b.jpg",
    ]
    refused = [
        "/etc/passwd",
        tmp_path,
        link / ".." / "a.jpg",
        f"{tmp_path}/../{tmp_path.name}/a.jpg",
    ]
    refused += [f"{tmp_path}x/a.jpg", tmp_path.parent / "a.jpg", "/a\\..\\b.jpg", "/"]
    data = "path,caption\n" + "".join(f"{path},{i}\n" for i, path in enumerate(paths + refused))
    for folder in (tmp_path, link):
        out = tmp_path / f"out-{folder.name}"
        argv = [*make_table(tmp_path, data.encode()), f"--images={folder}", f"--out={out}"]
        assert main(argv) == 0
        got = {record.key: record.captions for record in all_records(out)}
        assert got == {"a.jpg": ("0", "1", "2"), "b.jpg": ("3", "4")}
        skipped = read_manifest(out)["skipped"]
        assert {reason: found["count"] for reason, found in skipped.items()} == {
            "unsafe path": len(refused)
        }
        assert skipped["unsafe path"]["first"][0] == "/etc/passwd: line 7"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            "../a.jpg,x\nb\n",
            "none of its 2 rows is usable; the first: unsafe path ../a.jpg: line 2",
        ),
        ("b\n../a.jpg,x\n", "the first: malformed row line 2: 1 cells, expected 2"),
        (" ,x\n", "none of its 1 rows is usable; the first: malformed row line 2: no path"),
        ("https://a.com/b.jpg,x\n", "URL instead of a path https://a.com/b.jpg: line 2; download"),
        ("/etc/passwd,x\n", "unsafe path /etc/passwd: line 2"),
        ("", "has no rows"),
    ],
)
def test_no_usable_row_names_the_first_reason(tmp_path, capsys, rows, reason):
    assert_fails(capsys, make_table(tmp_path, f"path,caption\n{rows}".encode()), reason)
    assert not (tmp_path / "out").exists()


def test_several_tables(tmp_path, capsys):
    argv = make_table(tmp_path, b"path,caption\na.jpg,x\n")
    (tmp_path / "u.csv").write_text("title,filepath\nbad\ny,b.jpg\nz,a.jpg\n")
    assert main([*argv, f"--file={tmp_path}/*.csv"]) == 0
    got = {record.key: record.captions for record in all_records(tmp_path / "out")}
    assert got == {"a.jpg": ("x", "z"), "b.jpg": ("y",)}
    skipped = read_manifest(tmp_path / "out")["skipped"]
    assert skipped["malformed row"]["first"] == ["u.csv line 2: 1 cells, expected 2"]
    assert_fails(capsys, [*argv, f"--file={tmp_path}/*.tsv"], "*.tsv: no such file")
    assert_fails(capsys, argv[:2] + argv[3:], "--images: give the folder of the paths")
