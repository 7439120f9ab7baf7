"""The prepare command's format `table` on Parquet files."""

import errno

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_inputs import all_records, assert_fails, contents, picture

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / f"{name}.jpg").write_bytes(picture(i))
    return tmp_path


def prepare(tmp_path, columns, *options, name="t.parquet", **write):
    """Write a table and return the command line that prepares it."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, tmp_path / name, **write)
    return [
        "table",
        f"--file={tmp_path / name}",
        f"--out={tmp_path / 'out'}",
        "--workers=1",
        *options,
    ]


def skipped(tmp_path):
    return {r: found["first"] for r, found in read_manifest(tmp_path / "out")["skipped"].items()}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_paths_and_captions(images, kind):
    columns = {
        "id": [1, 2, 3, 4, 5],
        "filepath": pa.array(["a.jpg", "b.jpg", None, "../c.jpg", str(images / "a.jpg")], kind),
        "title": pa.array(["one", "two", "x", "x", "three"], kind),
    }
    assert main(prepare(images, columns, f"--images={images}", row_group_size=2)) == 0
    got = {record.key: record.captions for record in all_records(images / "out")}
    assert got == {"a.jpg": ("one", "three"), "b.jpg": ("two",)}
    assert skipped(images) == {
        "malformed row": ["row 3: no path"],
        "unsafe path": ["../c.jpg: row 4"],
    }


def test_a_row_may_have_several_captions(images):
    columns = {
        "path": ["a.jpg", "b.jpg"],
        "caption": [["one", None, "two"], None],
        "alt": ["x", "y"],
    }
    options = [f"--images={images}", "--caption-column=caption", "--caption-column=alt"]
    assert main(prepare(images, columns, *options)) == 0
    assert [r.captions for r in all_records(images / "out")] == [("one", "two", "x"), ("y",)]


def test_text_that_is_not_utf8_spoils_one_row_only(images):
    captions = pa.array([b"one", b"caf\xe9"]).view(pa.string())
    argv = prepare(images, {"path": ["a.jpg", "b.jpg"], "caption": captions}, f"--images={images}")
    assert main(argv) == 0
    assert [record.key for record in all_records(images / "out")] == ["a.jpg"]
    assert skipped(images) == {"malformed row": ["row 2: a text is not UTF-8"]}


IMG2DATASET = {
    "url": [f"https://a.com/{i}" for i in range(3)],
    "caption": ["zero", "one", "two"],
    "key": ["000000000", "000000001", "000000002"],
    "status": ["success", "failed_to_download", "success"],
}


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_img2dataset_files(tmp_path, extension):
    """Its format `files` writes 00000.parquet next to the folder 00000."""
    argv = prepare(tmp_path, IMG2DATASET, f"--images={tmp_path}", name="00000.parquet")
    (tmp_path / "00000").mkdir()
    for i in (0, 2):
        data = picture(i, kind=extension.replace("jpg", "jpeg"))
        (tmp_path / "00000" / f"00000000{i}.{extension}").write_bytes(data)
    assert main(argv) == 0
    got = {record.key: record.captions for record in all_records(tmp_path / "out")}
    assert got == {f"00000/00000000{i}.{extension}": (IMG2DATASET["caption"][i],) for i in (0, 2)}
    assert skipped(tmp_path) == {
        "missing image": ["00000/000000001.jpg: No such file or directory"]
    }


def test_img2dataset_shards_are_another_format(tmp_path, capsys):
    (tmp_path / "00000.tar").write_bytes(b"")
    argv = prepare(tmp_path, IMG2DATASET, f"--images={tmp_path}", name="00000.parquet")
    assert_fails(capsys, argv, "00000.tar", "the format webdataset")


def test_img2dataset_parquet(tmp_path):
    """Its format `parquet` writes the images into the table."""
    for shard in range(2):
        columns = IMG2DATASET | {"jpg": [picture(shard), None, picture(2 + shard)]}
        columns["key"] = [f"{shard:05d}{i:04d}" for i in range(3)]
        argv = prepare(tmp_path, columns, name=f"set/{shard:05d}.parquet", row_group_size=2)
    argv[1] = f"--file={tmp_path / 'set'}"
    assert main(argv) == 0
    records = all_records(tmp_path / "out")
    assert [record.key for record in records] == [
        "000000000",
        "000000002",
        "000010000",
        "000010002",
    ]
    assert [record.image for record in records] == [picture(i) for i in (0, 2, 1, 3)]
    assert skipped(tmp_path)["missing image"] == [
        "000000001: 00000.parquet row 2: no bytes", "000010001: 00001.parquet row 2: no bytes",
    ]  # fmt: skip
    before = contents(tmp_path / "out")
    for workers, files in ((1, tmp_path / "set"), (2, tmp_path / "set" / "*.parquet")):
        out = tmp_path / f"out{workers}"
        more = [
            f"--file={files}",
            f"--out={out}",
            "--num-shards=4",
            f"--workers={workers}",
            "--name=n",
        ]
        assert main([*argv, *more]) == 0
        assert all_records(out) == records
    assert main(argv) == 0  # nothing to do
    assert contents(tmp_path / "out") == before


def test_hugging_face_images(tmp_path):
    images = [{"bytes": picture(0), "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}, None]
    images += [{"bytes": picture(1), "path": "x.jpg"}]
    columns = {"image": images, "text": ["a", "b", "c", "d"], "path": ["1", "2", "3", "4"]}
    side = tmp_path / "r.jsonl"
    side.write_text('{"key": "t/4", "regions": [{"text": "ear", "box": [0, 0, 5, 5]}]}')
    assert main(prepare(tmp_path, columns, f"--regions={side}")) == 0
    first, last = all_records(tmp_path / "out")
    assert (first.key, first.image, first.captions) == ("t/1", picture(0), ("a",))
    assert (last.key, last.captions, len(last.regions)) == ("t/4", ("d",), 1)
    assert len(skipped(tmp_path)["missing image"]) == 2


def test_a_damaged_row_group_is_counted(tmp_path):
    columns = {"jpg": [picture(i) for i in range(4)], "caption": list("abcd")}
    argv = prepare(
        tmp_path, columns, row_group_size=2, compression="none", write_page_checksum=True
    )
    file = tmp_path / "t.parquet"
    data = bytearray(file.read_bytes())
    data[data.index(picture(1)) + 100] ^= 1
    file.write_bytes(data)
    assert main(argv) == 0
    assert [record.captions for record in all_records(tmp_path / "out")] == [("c",), ("d",)]
    (problem,) = skipped(tmp_path)["unreadable rows"]
    assert problem.startswith("t.parquet rows 1 to 2: ")


def test_read_error_ends_the_run(tmp_path, capsys, monkeypatch):
    """Rows that cannot be read now must not count as lost: the same command continues."""
    argv = prepare(tmp_path, {"jpg": [picture(0)], "caption": ["a"]})

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", fail)
        assert_fails(capsys, argv, "Input/output error", "the same command continues")
    assert main(argv) == 0
    assert len(all_records(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"image": [1], "caption": ["x"]}, ["--images=."], ["--path-column image: holds int64"]),
        ({"jpg": [b"x"], "caption": [1]}, [], ["--caption-column caption: holds int64, not text"]),
        ({"jpg": [b"x"], "label": [1]}, [], ["--caption-column caption: not in", "jpg, label"]),
        ({"path": ["a"], "caption": ["x"]}, [], ["--images: give the folder", "'path'"]),
        ({"URL": ["http://a.com/b"], "TEXT": ["x"]}, ["--images=."], ["URL instead of a path", "row 1"]),
        ({"path": pa.array([], pa.string()), "caption": pa.array([], pa.string())}, ["--images=."], ["no rows"]),
        ({"jpg": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}, [], ["no rows"]),
        ({"jpg": [b"x"], "caption": ["x"]}, ["--num-shards=2"], ["--num-shards 2", "1 row groups"]),
    ],
)  # fmt: skip
def test_unusable_tables_are_one_line(tmp_path, capsys, columns, options, words):
    assert_fails(capsys, prepare(tmp_path, columns, *options), *words)


def test_columns_of_one_name(images, capsys):
    image, rows = (images / "a.jpg").read_bytes(), [pa.array(["1"]), pa.array(["2"])]
    table = [pa.array([image]), pa.array(["x"]), *rows]
    keys = pa.Table.from_arrays(table, names=["jpg", "caption", "key", "key"])
    argv = prepare(images, keys)
    assert main(argv) == 0
    assert [record.key for record in all_records(images / "out")] == ["t/1"]
    texts = pa.Table.from_arrays(table, names=["jpg", "note", "title", "title"])
    assert_fails(capsys, prepare(images, texts), "--caption-column title", "several columns")


@pytest.mark.parametrize("data", [None, b"", b"path,caption\n", b"PAR1 cut short"])
def test_files_that_are_not_parquet(tmp_path, capsys, data):
    file = tmp_path / "t.parquet"
    if data is not None:
        file.write_bytes(data)
    argv = ["table", f"--file={file}", f"--images={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert_fails(
        capsys, argv, f"--file {file}: {'cannot be read' if data is None else 'not a readable'}"
    )
