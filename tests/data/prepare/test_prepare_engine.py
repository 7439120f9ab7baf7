"""The prepare command interrupted and resumed, in several processes, and with bad options."""

import io
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
from prepare_inputs import (
    all_records,
    assert_fails,
    contents,
    entry,
    karpathy,
    many_examples,
    picture,
)

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.prepare.shards import write_shard
from timix_jax.data.prepare.tasks import Problem
from timix_jax.data.records.manifest import read_manifest


@pytest.fixture
def many(tmp_path):
    return many_examples(tmp_path)


def test_output_does_not_depend_on_the_number_of_workers(tmp_path, many):
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
    """Start the command and kill it (-9) as soon as `ready()`; return whether it was killed."""
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
    """Return True if all processes of a group end within 20 seconds."""
    for _ in range(400):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed_command_writes_the_same_bytes(tmp_path, workers):
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


def test_finished_shards_are_kept_only_while_valid(tmp_path, many, capsys):
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


def test_foreign_folder_is_left_alone(tmp_path, many, capsys):
    out = tmp_path / "out"
    argv = [*many, f"--out={out}", "--num-shards=2"]
    assert main(argv) == 0
    before = contents(out)
    assert main([*argv, "--workers=2"]) == 0  # nothing to do
    assert contents(out) == before
    assert_fails(capsys, [*argv, "--max-size=20"], "max_size = None", "20", "another --out")
    assert_fails(capsys, [*argv, "--num-shards=3"], "num_shards = 2")
    (tmp_path / "images" / "00.jpg").write_bytes(picture(7))
    assert_fails(capsys, argv, "finished data set", "1 of its 2 shards")
    assert contents(out) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    assert_fails(capsys, [*many, f"--out={other}"], "not empty")
    assert_fails(capsys, [*many, f"--out={other / 'thesis.tex'}"], "is a file")
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_more_shards_than_examples(tmp_path, many):
    assert main([*many, f"--out={tmp_path / 'out'}", "--num-shards=30"]) == 0
    assert len(all_records(tmp_path / "out")) == 23


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, many, capsys):
    out = tmp_path / "out"
    end = [f"--out={out}", "--workers=1"]
    images = f"--images={tmp_path}"
    table = tmp_path / "t.csv"
    table.write_text("file,text\na.jpg,b\n")
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    assert_fails(capsys, ["karpathy", "--json=no.json", images, "--split=train", *end], "no.json")
    assert_fails(capsys, ["karpathy", f"--json={bad}", images, "--split=train", *end], "Karpathy")
    assert_fails(capsys, [*many, *end, "--split=test"], "--split test", "train (23)")
    assert_fails(capsys, [*many, *end, "--images=nowhere"], "--images nowhere")
    assert_fails(capsys, [*many, *end, "--regions=no.jsonl"], "--regions no.jsonl")
    assert_fails(capsys, [*many, *end, f"--regions={bad}"], "entry 0", "expected an object")
    assert_fails(capsys, [*many, *end, "--max-size=0"], "--max-size", "at least 1")
    assert_fails(capsys, [*many, "--workers=1"], "--out")
    assert_fails(
        capsys, ["table", f"--file={table}", images, *end], "--path-column path", "file, text"
    )
    assert_fails(capsys, ["table", "--file=no.csv", images, *end], "no.csv")
    assert_fails(capsys, ["webdataset", f"--shards={tmp_path}/{{0..1}}.tar", *end], "0.tar")
    assert_fails(capsys, ["parquet", *end], "parquet")
    assert not out.exists()
    columns = ["--path-column=file", "--caption-column=text"]
    assert_fails(
        capsys, ["table", f"--file={table}", images, *columns, *end], "1 missing image (a.jpg"
    )
    assert not out.exists()


def test_full_disk_is_one_line_and_the_same_command_resumes(tmp_path, many, capsys):
    """Simulate a full disk by a limit on the file size."""
    out = tmp_path / "out"
    argv = [*many, f"--out={out}", "--num-shards=1"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        assert_fails(
            capsys, argv, "out-00000-of-00001.array_record: cannot be written", "free some space"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(out) == {}
    assert main(argv) == 0
    assert len(all_records(out)) == 23


def test_name_must_not_be_a_path(tmp_path, many, capsys):
    assert_fails(capsys, [*many, f"--out={tmp_path / 'out'}", "--name=../x"], "--name ../x")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe garbage", b"[1]"])
def test_damaged_command_file_is_one_line(tmp_path, many, capsys, data):
    out = tmp_path / "out"
    assert main([*many, f"--out={out}"]) == 0
    (out / ".prepare" / "command.json").write_bytes(data)
    assert_fails(
        capsys, [*many, f"--out={out}"], "command.json is damaged", f"delete the folder {out}"
    )


def test_folder_that_no_source_can_name_is_refused(tmp_path, many, capsys):
    """Refuse question marks: in `records:DIR?cache=…` they start the options."""
    assert_fails(capsys, [*many, f"--out={tmp_path / 'a?b'}"], "--out", "a?b", "without one")
    assert not (tmp_path / "a?b").exists()


@pytest.mark.parametrize(
    ("name", "what"),
    [("a\nb", r"character '\n'"), ("a\x7f", r"character '\x7f'"), ("\udcff", "not UTF-8")],
)
@pytest.mark.parametrize("option", ["--out", "--name"])
def test_names_that_cannot_be_opened_are_refused(tmp_path, many, capsys, option, name, what):
    path = {"--out": tmp_path / name, "--name": name}[option]
    assert_fails(capsys, [*many, f"--out={tmp_path / 'out'}", f"{option}={path}"], option, what)
    assert not [
        path.name for path in tmp_path.iterdir() if path.suffix != ".json" and path.name != "images"
    ]


def test_special_files_are_counted(tmp_path):
    """Reading a FIFO waits for a writer; reading a device may never end."""
    names = ("good.jpg", "fifo.jpg", "socket.jpg", "device.jpg", "folder.jpg")
    argv = karpathy(tmp_path, [entry(name, "c") for name in names], {"good.jpg": picture(0)})
    folder = tmp_path / "images"
    os.mkfifo(folder / "fifo.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))  # a long path does not fit
        assert main([*argv, f"--out={tmp_path / 'out'}"]) == 0
    skipped = read_manifest(tmp_path / "out")["skipped"]
    assert skipped["not a regular file"]["first"] == [
        f"{name}: a FIFO, socket or device" for name in names[1:4]
    ]
    assert skipped["missing image"]["first"] == ["folder.jpg: Is a directory"]


def test_home_folder_is_expanded(tmp_path, many, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*many, "--out=~/out", "--images=~/images"]) == 0
    assert len(all_records(tmp_path / "out")) == 23


@pytest.mark.parametrize("option", ["--file", "--images", "--out"])
def test_prepare_is_local(option, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {"--file": "pairs.csv", "--images": ".", "--out": "out"} | {option: "gs://bucket/x"}
    assert main(["table", *(part for pair in paths.items() for part in pair)]) == 2
    line = capsys.readouterr().err
    assert f"argument {option}: 'gs://bucket/x' is not local" in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


class Unidentified:
    """A task whose problem quotes an object, as Pillow's messages do."""

    size = 1

    def states(self):
        return ()

    def fingerprint(self, states):
        return ""

    def items(self, states):
        yield Problem("corrupt image", "at 0x1f.jpg", f"cannot identify {io.BytesIO()!r}: at 0x1f")


def test_reasons_hold_no_addresses(tmp_path):
    (tmp_path / ".prepare").mkdir()
    receipt = write_shard(tmp_path / "0", Unidentified(), None, lambda count: None)
    _, named = receipt.tally.skipped["corrupt image"]
    assert named == ["at 0x1f.jpg: cannot identify <_io.BytesIO object>: at 0x1f"]
