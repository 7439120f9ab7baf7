"""The prepare command line, in this process (``main``) and, where it is killed, in its own."""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from timix_jax.data.decode import decode_image
from timix_jax.data.manifest import read_manifest
from timix_jax.data.prepare.__main__ import main
from timix_jax.data.prepare.webdataset import expand_braces
from timix_jax.data.records import RecordSource, Region


def picture(seed, width=40, height=30, kind="JPEG", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def karpathy(tmp_path, entries, images):
    """Writes a JSON file and an image folder; returns the options that name them."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for name, data in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"images": entries}))
    return ["karpathy", f"--json={file}", f"--images={folder}", "--split=train", "--workers=1"]


def entry(name, *captions, **more):
    sentences = [{"raw": caption} for caption in captions]
    return {"filename": name, "split": "train", "sentences": sentences, **more}


def contents(folder):
    """Relative path -> digest of every file that a user sees."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".prepare" not in path.parts
    }


def all_records(folder):
    source = RecordSource(folder)
    return [source[i] for i in range(len(source))]


def fails(capsys, argv, *words):
    """Runs a command that must end with one line and code 2."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    for word in words:
        assert word in error


@pytest.fixture
def many(tmp_path):
    """Options for 23 examples of two captions."""
    images = {f"{i:02d}.jpg": picture(i) for i in range(23)}
    return karpathy(tmp_path, [entry(n, f"one {n}", f"two  {n}\n") for n in images], images)


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


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))


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


def test_large_images_shrink_with_their_boxes(tmp_path):
    images = {"wide.jpg": picture(0, 80, 40), "small.jpg": picture(1, 20, 30)}
    region = [{"text": "part", "box": [8, 4, 40, 20]}]
    entries = [entry(name, "c", regions=region[: name == "wide.jpg"]) for name in images]
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}", "--max-size=40"]) == 0
    wide, small = all_records(out)
    assert decode_image(wide.image).shape == (20, 40, 3)
    assert wide.regions == (Region("part", (4, 2, 20, 10)),)
    assert small.image == images["small.jpg"]
    manifest = read_manifest(out)
    assert (manifest["reencoded"], manifest["image_sizes"]["max_width"]) == (1, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images_are_stored_upright(tmp_path, orientation):
    smooth = Image.fromarray(np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    smooth.convert("RGB").save(file, "JPEG", quality=95, exif=exif)
    out = tmp_path / "out"
    argv = karpathy(tmp_path, [entry("a.jpg", "c")], {"a.jpg": file.getvalue()})
    assert main([*argv, f"--out={out}"]) == 0
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)), np.int32)
    stored = decode_image(all_records(out)[0].image).astype(np.int32)
    assert stored.shape == expected.shape
    assert np.abs(stored - expected).mean() < 2


def test_other_formats_become_jpeg(tmp_path):
    argv = karpathy(tmp_path, [entry("a.gif", "c")], {"a.gif": picture(0, kind="GIF")})
    assert main([*argv, f"--out={tmp_path / 'out'}"]) == 0
    assert all_records(tmp_path / "out")[0].image.startswith(b"\xff\xd8\xff")


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, many):
    for workers in (1, 2, 3):
        out = tmp_path / str(workers)
        argv = [f"--workers={workers}", "--num-shards=4", "--max-size=32", "--name=set"]
        assert main([*many, f"--out={out}", *argv]) == 0
    assert len(contents(tmp_path / "1")) == 5
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    keys = [record.key for record in all_records(tmp_path / "1")]
    assert keys == [f"{i:02d}.jpg" for i in range(23)]
    assert all_records(tmp_path / "1")[5].captions == ("one 05.jpg", "two 05.jpg")


def kill_when(argv, ready):
    """Starts the command, kills it (-9) as soon as ``ready()``; returns whether it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "timix_jax.data.prepare", *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not ready():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert group_ends(process.pid), "a worker outlived its parent"
    return process.returncode == -signal.SIGKILL


def group_ends(group):
    """Whether all processes of a group end within 20 seconds."""
    for _ in range(400):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_continued_writes_the_same_bytes(tmp_path, workers):
    images = {f"{i}.jpg": picture(i, 240, 180) for i in range(8)}
    images |= {f"b{i}.jpg": picture(i % 8, 240, 180) for i in range(240)}
    argv = karpathy(tmp_path, [entry(name, "c") for name in images], images)
    argv += ["--num-shards=40", "--max-size=100", "--name=set"]
    assert main([*argv, f"--out={tmp_path / 'whole'}"]) == 0
    out = tmp_path / "killed"
    argv += [f"--out={out}", f"--workers={workers}"]
    receipts = lambda: len(list((out / ".prepare").glob("*.array_record.json")))
    assert kill_when(argv, lambda: receipts() >= 3)
    assert not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    finished = receipts()
    assert 3 <= finished < 40
    assert main(argv) == 0
    same = sum(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert same >= finished
    assert contents(out) == contents(tmp_path / "whole")


def test_finished_shards_are_kept_only_while_true(tmp_path, many, capsys):
    out = tmp_path / "out"
    argv = [*many, f"--out={out}", "--num-shards=4"]
    assert main(argv) == 0
    whole = contents(out)
    shards = sorted(out.glob("*.array_record"))
    (out / "manifest.json").unlink()  # as if stopped before the end
    data = bytearray(shards[0].read_bytes())
    data[len(data) // 2] ^= 1
    shards[0].write_bytes(data)
    shards[1].unlink()
    kept = {path: path.stat().st_mtime_ns for path in shards[2:]}
    changed = tmp_path / "images" / "22.jpg"  # in the last shard
    changed.write_bytes(picture(99))
    assert main(argv) == 0
    assert [path.stat().st_mtime_ns == kept[path] for path in shards[2:]] == [True, False]
    again = contents(out)
    assert [again[path.name] == whole[path.name] for path in shards] == [True, True, True, False]
    assert all_records(out)[22].image == picture(99)


def test_a_folder_of_something_else_is_left_alone(tmp_path, many, capsys):
    out = tmp_path / "out"
    argv = [*many, f"--out={out}", "--num-shards=2"]
    assert main(argv) == 0
    before = contents(out)
    assert main([*argv, "--workers=2"]) == 0  # nothing left to do
    assert contents(out) == before
    fails(capsys, [*argv, "--max-size=20"], "max_size = None", "20", "another --out")
    fails(capsys, [*argv, "--num-shards=3"], "num_shards = 2")
    (tmp_path / "images" / "00.jpg").write_bytes(picture(7))
    fails(capsys, argv, "finished data set", "1 of its 2 shards")
    assert contents(out) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    fails(capsys, [*many, f"--out={other}"], "not empty")
    fails(capsys, [*many, f"--out={other / 'thesis.tex'}"], "is a file")
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, many, capsys):
    out = tmp_path / "out"
    end = [f"--out={out}", "--workers=1"]
    images = f"--images={tmp_path}"
    table = tmp_path / "t.csv"
    table.write_text("file,text\na.jpg,b\n")
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    fails(capsys, ["karpathy", "--json=no.json", images, "--split=train", *end], "no.json")
    fails(capsys, ["karpathy", f"--json={bad}", images, "--split=train", *end], "Karpathy")
    fails(capsys, [*many, *end, "--split=test"], "--split test", "train (23)")
    fails(capsys, [*many, *end, "--images=nowhere"], "--images nowhere")
    fails(capsys, [*many, *end, "--regions=no.jsonl"], "--regions no.jsonl")
    fails(capsys, [*many, *end, f"--regions={bad}"], "entry 0", "expected an object")
    fails(capsys, [*many, *end, "--max-size=0"], "--max-size", "at least 1")
    fails(capsys, [*many, "--workers=1"], "--out")
    fails(capsys, ["table", f"--file={table}", images, *end], "--path-column path", "file, text")
    fails(capsys, ["table", "--file=no.csv", images, *end], "no.csv")
    fails(capsys, ["webdataset", f"--shards={tmp_path}/{{0..1}}.tar", *end], "0.tar")
    fails(capsys, ["parquet", *end], "parquet")
    assert not out.exists()
    columns = ["--path-column=file", "--caption-column=text"]
    fails(capsys, ["table", f"--file={table}", images, *columns, *end], "1 missing image (a.jpg")
    assert not out.exists()


def test_more_shards_than_examples(tmp_path, many):
    assert main([*many, f"--out={tmp_path / 'out'}", "--num-shards=30"]) == 0
    assert len(all_records(tmp_path / "out")) == 23


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
