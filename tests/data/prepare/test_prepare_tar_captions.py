"""The prepare command's captions of tars: lines, encodings and duplicates."""

import json

import pytest
from prepare_inputs import all_records, assert_fails, picture, write_tar

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.prepare.tasks import tidy
from timix_jax.data.records.manifest import read_manifest

_LINES = "text of several lines, kept as one caption (see --split-lines)"


def prepare(tmp_path, members, *options):
    """Prepare a tar with the image `0.jpg` and these members; return the captions and manifest."""
    write_tar(
        tmp_path / "a.tar",
        [("0.jpg", picture(0)), *members, ("9.jpg", picture(9)), ("9.txt", b"last")],
    )
    out = tmp_path / "out"
    argv = ["webdataset", f"--shards={tmp_path}/a.tar", f"--out={out}", "--workers=1", *options]
    assert main(argv) == 0
    return {record.key: record.captions for record in all_records(out)}, read_manifest(out)


@pytest.mark.parametrize(
    "text", ["one\ntwo  2\nthree", "one\r\n\r\ntwo 2\r\nthree\r\n", "one\rtwo 2\rthree"]
)
def test_one_caption_per_line(tmp_path, capsys, text):
    captions, manifest = prepare(tmp_path, [("0.txt", text.encode())])
    assert captions["0"] == ("one two 2 three",)
    assert manifest["noted"] == {_LINES: {"count": 1, "first": ["a.tar/0"]}}
    assert f"noted 1 × {_LINES}: a.tar/0" in capsys.readouterr().out
    (tmp_path / "2").mkdir()
    captions, manifest = prepare(tmp_path / "2", [("0.txt", text.encode())], "--split-lines")
    assert captions == {"0": ("one", "two 2", "three"), "9": ("last",)}
    assert manifest["noted"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "café".encode("latin-1"),
        "café".encode("utf-16"),
        "a dog".encode("utf-16-le"),
        "кот".encode("cp1251"),
    ],
)
def test_other_encodings_are_named_or_decoded(tmp_path, text):
    other = ("0.json", json.dumps({"caption": "from JSON"}).encode())
    captions, manifest = prepare(tmp_path, [("0.txt", text), other])
    assert captions["0"] == ("from JSON",)
    entry = manifest["dropped"]["unreadable text"]
    assert entry["count"] == 1
    assert entry["first"][0].startswith("a.tar/0: not utf-8 (")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-8-sig", "utf-8"])
def test_encoding_of_the_texts(tmp_path, encoding):
    write_tar(tmp_path / "a.tar", [("0.jpg", picture(0)), ("0.txt", "café".encode(encoding))])
    out = tmp_path / "out"
    argv = ["webdataset", f"--shards={tmp_path}/a.tar", f"--out={out}", "--workers=1"]
    assert main([*argv, f"--encoding={encoding}"]) == 0
    assert all_records(out)[0].captions == ("café",)


@pytest.mark.parametrize("encoding", ["base64", "utf-99"])
def test_what_is_no_encoding_is_refused(tmp_path, capsys, encoding):
    argv = ["webdataset", "--shards=a.tar", f"--out={tmp_path}", f"--encoding={encoding}"]
    assert_fails(capsys, argv, f"--encoding: '{encoding}' is not a text encoding")


def test_byte_order_marks_make_no_second_caption(tmp_path):
    members = [
        ("0.txt", "\ufeffa dog\n".encode()),
        ("0.json", '\ufeff{"caption": ["\ufeffa dog", "a  dog"]}'.encode()),
    ]
    captions, manifest = prepare(tmp_path, members)
    assert captions["0"] == ("a dog",)
    assert manifest["dropped"] == {}


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\0", "\u200d\u2060", " \u00ad\n"])
def test_invisible_caption_is_empty(tmp_path, text):
    captions, manifest = prepare(tmp_path, [("0.txt", text.encode())])
    assert captions == {"9": ("last",)}
    assert manifest["skipped"]["no caption"]["first"] == ["0: all of them are empty"]
    assert manifest["dropped"]["empty caption"]["count"] == 1


def test_tidy_keeps_joiners_between_visible_characters():
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert tidy(f" {family}\ufeff ") == family


def test_texts_may_be_left_out(tmp_path, capsys):
    members = [
        ("0.txt", b"alt\ntext"), ("0.json", b'{"caption": "alt", "long": "a longer one"}'),
    ]  # fmt: skip
    captions, manifest = prepare(tmp_path, members, "--caption-field=long", "--no-txt")
    assert captions == {"0": ("a longer one",)}
    assert manifest["noted"] == {}
    argv = ["webdataset", f"--shards={tmp_path}/a.tar", f"--out={tmp_path / 'o'}", "--no-txt"]
    assert_fails(capsys, [*argv, "--split-lines"], "--split-lines", "not allowed with", "--no-txt")
