"""The prepare command's input files that cannot be read now, but may be later."""

import errno
import os
from pathlib import Path

import pytest
from prepare_inputs import all_records, assert_fails, contents, many_examples, picture, write_tar

from timix_jax.data.prepare import tar_reader
from timix_jax.data.prepare.__main__ import main


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOENT])
@pytest.mark.parametrize("workers", [1, 2])
def test_passing_read_error_is_not_stored(tmp_path, capsys, monkeypatch, number, workers):
    """The file's size and time are the same before and after; ENOENT: it was there and comes back."""
    many = many_examples(tmp_path)
    out = tmp_path / "out"
    argv = [*many, f"--out={out}", "--name=set", "--num-shards=4", "--workers=1"]
    read = Path.read_bytes

    def fail(path):
        if path.name in ("03.jpg", "20.jpg"):
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        words = (
            "not finished, cannot read 03.jpg",
            f"03.jpg: {os.strerror(number)}",
            "same command",
        )
        assert_fails(capsys, argv, *words)
        assert not (out / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    assert main([*argv, f"--workers={workers}"]) == 0
    assert len(all_records(out)) == 23
    kept = [path.stat().st_mtime_ns == before for path, before in sorted(finished.items())]
    assert kept == [False, True, True, False]
    assert main([*many, f"--out={tmp_path / 'whole'}", "--name=set", "--num-shards=4"]) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_missing_image_is_still_counted(tmp_path, capsys):
    argv = [*many_examples(tmp_path), f"--out={tmp_path / 'out'}"]
    (tmp_path / "images" / "03.jpg").unlink()
    (tmp_path / "images" / "04.jpg").unlink()
    (tmp_path / "images" / "04.jpg").mkdir()
    assert main(argv) == 0
    assert len(all_records(tmp_path / "out")) == 21
    assert "skipped 2 × missing image: 03.jpg: No such file" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_tar_that_cannot_be_read_now(tmp_path, capsys, monkeypatch, number):
    for i in range(2):
        write_tar(tmp_path / f"{i}.tar", [("0.jpg", picture(i)), ("0.txt", b"c")])
    out = tmp_path / "out"
    argv = ["webdataset", f"--shards={tmp_path}/*.tar", f"--out={out}", "--workers=1"]

    def fail(file, size=-1):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(tar_reader._WatchedFile, "read", fail)
        assert_fails(capsys, argv, "(and 1 more)", f"0.tar: {os.strerror(number)}", "same command")
    assert main(argv) == 0
    assert len(all_records(out)) == 2


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
def test_real_read_error(tmp_path, capsys):
    argv = [*many_examples(tmp_path), f"--out={tmp_path / 'out'}"]
    broken = tmp_path / "images" / "05.jpg"
    broken.unlink()
    broken.symlink_to("/proc/self/mem")
    assert_fails(capsys, argv, "cannot read 05.jpg: Input/output error; ")
