"""The prepare command's side files of regions."""

import json

import pytest
from prepare_inputs import (
    all_records,
    assert_fails,
    entry,
    karpathy,
    many_examples,
    picture,
    write_tar,
)

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest
from timix_jax.data.sources.records import RecordSource


@pytest.fixture
def many(tmp_path):
    return many_examples(tmp_path)


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


def side_file(tmp_path, *keys):
    """Write a side file with one region per key, whose text is the key; return the option."""
    file = tmp_path / "r.jsonl"
    lines = ({"key": key, "regions": [{"text": key, "box": [0, 0, 4, 4]}]} for key in keys)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"--regions={file}"


def two_tars(tmp_path, *names):
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, [("0.jpg", picture(i)), ("0.txt", b"c")])
    pattern = ",".join(str(tmp_path / name) for name in names)
    return ["webdataset", f"--shards={{{pattern}}}", f"--out={tmp_path / 'out'}"]


@pytest.mark.parametrize(
    ("key", "options"),
    [("0", ["--workers=1"]), ("0.jpg", ["--workers=2"]), ("./0", ["--num-shards=1"])],
)
def test_key_that_fits_several_tars_is_refused(tmp_path, capsys, key, options):
    argv = [*two_tars(tmp_path, "0.tar", "1.tar"), *options]
    words = (repr(key.removeprefix("./")), "0.tar/0", "1.tar/0", "longer name")
    assert_fails(capsys, [*argv, side_file(tmp_path, key)], *words)
    assert not (tmp_path / "out" / "manifest.json").exists()
    for named in ("1.tar/0", "1.tar/0.jpg"):  # the same command continues
        assert main([*argv, side_file(tmp_path, named), f"--out={tmp_path / 'named'}"]) == 0
        texts = [[r.text for r in record.regions] for record in all_records(tmp_path / "named")]
        assert texts == [[], [named]]
        (tmp_path / "named").rename(tmp_path / f"named{len(named)}")


@pytest.mark.parametrize("absolute", [False, True])
def test_tars_of_one_name_are_named_by_their_folders(tmp_path, capsys, absolute):
    argv = [*two_tars(tmp_path, "a/0.tar", "b/0.tar"), "--workers=1"]
    assert_fails(capsys, [*argv, side_file(tmp_path, "0.tar/0")], "a/0.tar/0", "b/0.tar/0")
    named = f"{tmp_path}/b/0.tar/0" if absolute else "b/0.tar/0.JPG"
    assert main([*argv, side_file(tmp_path, named)]) == 0
    assert [len(record.regions) for record in all_records(tmp_path / "out")] == [0, 1]


def test_ambiguous_tars_may_be_named_in_two_ways(tmp_path, capsys, monkeypatch):
    two_tars(tmp_path, "a/0.tar", "b/0.tar")
    monkeypatch.chdir(tmp_path)
    shards = f"{{{tmp_path}/a,b}}/0.tar"
    argv = ["webdataset", f"--shards={shards}", "--out=out", "--workers=1"]
    assert_fails(capsys, [*argv, side_file(tmp_path, "0")], f"{tmp_path}/a/0.tar/0", "b/0.tar/0")


@pytest.mark.parametrize("split", ["train", "train,val"])
def test_file_name_that_fits_several_folders_is_refused(tmp_path, capsys, split):
    images = {"train/1.jpg": picture(0), "val/1.jpg": picture(1)}
    entries = [entry("1.jpg", "c", filepath=f, split=f) for f in ("train", "val")]
    argv = [*karpathy(tmp_path, entries, images), f"--split={split}", f"--out={tmp_path / 'out'}"]
    assert_fails(
        capsys, [*argv, side_file(tmp_path, "1.jpg")], "'1.jpg'", "train/1.jpg", "val/1.jpg"
    )
    assert main([*argv, side_file(tmp_path, "train/1.jpg")]) == 0
    assert all_records(tmp_path / "out")[0].regions[0].text == "train/1.jpg"


@pytest.mark.parametrize("tars", [False, True])
def test_keys_that_fit_nothing_are_counted(tmp_path, many, capsys, tars):
    argv = two_tars(tmp_path, "0.tar") if tars else [*many, f"--out={tmp_path / 'out'}"]
    key = "0" if tars else "03.jpg"
    assert main([*argv, side_file(tmp_path, "no", key, "nothing"), "--workers=1"]) == 0
    reason = "region key that fits no example"
    assert f"noted 2 × {reason}: no, nothing" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out")
    assert manifest["noted"] == {reason: {"count": 2, "first": ["no", "nothing"]}}
    (tmp_path / "out" / "manifest.json").unlink()  # as if stopped before the end
    assert main([*argv, f"--regions={tmp_path / 'r.jsonl'}", "--workers=1"]) == 0
    assert read_manifest(tmp_path / "out") == manifest


def test_shards_of_an_earlier_version_claim_nothing_about_keys(tmp_path, many):
    out = tmp_path / "out"
    argv = [*many, f"--out={out}", side_file(tmp_path, "03.jpg"), "--num-shards=1"]
    assert main(argv) == 0
    (receipt,) = (out / ".prepare").glob("*.array_record.json")
    stored = json.loads(receipt.read_text())
    del stored["matches"], stored["tally"]["noted"]
    receipt.write_text(json.dumps(stored))
    assert main(argv) == 0
    assert read_manifest(out)["noted"] == {}
