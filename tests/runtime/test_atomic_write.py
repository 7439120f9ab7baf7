"""A file has either its old or its new contents, whatever happens."""

import os

import pytest

from timix_jax.runtime import atomic_write
from timix_jax.runtime.atomic_write import atomic_write_text


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "file.json"
    atomic_write_text(path, "old")
    atomic_write_text(path, "néw\n")
    assert path.read_bytes() == "néw\n".encode()
    assert os.listdir(tmp_path) == ["file.json"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic_write_text(path, "old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_write.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.json"]
