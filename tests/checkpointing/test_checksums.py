"""The manifest of checksums, and every way in which a folder can differ from it."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from timix_jax.checkpointing import checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep").write_bytes(bytes(range(256)) * 40_000)  # more than one block
    (tmp_path / "a" / "one").write_bytes(b"one")
    (tmp_path / "empty").write_bytes(b"")
    checksums.write_manifest(tmp_path)
    return tmp_path


def test_manifest_holds_size_and_sha256_of_each_file(folder):
    files = json.loads((folder / "CHECKSUMS.json").read_text())["files"]
    assert set(files) == {"a/b/deep", "a/one", "empty"}
    for name, entry in files.items():
        data = (folder / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert checksums.has_manifest(folder)
    assert checksums.problems(folder) == []


def test_rewritten_manifest_does_not_include_itself(folder):
    checksums.write_manifest(folder)
    assert checksums.problems(folder) == []
    assert sorted(os.listdir(folder)) == ["CHECKSUMS.json", "a", "empty"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "a/one").write_bytes(b"onE"), "a/one: its bytes differ"),
        (lambda f: (f / "a/one").write_bytes(b"on"), "a/one: 2 bytes, not 3 (truncated)"),
        (lambda f: (f / "empty").write_bytes(b"x"), "empty: 1 bytes, not 0 (grown)"),
        (lambda f: (f / "a/one").unlink(), "a/one: missing"),
        (lambda f: (f / "CHECKSUMS.json").unlink(), "CHECKSUMS.json is missing"),
        (lambda f: (f / "CHECKSUMS.json").write_text("{"), "CHECKSUMS.json: unreadable"),
        (lambda f: (f / "CHECKSUMS.json").write_text("[]"), "CHECKSUMS.json: unreadable"),
        (lambda f: (f / "CHECKSUMS.json").write_bytes(b"\xff"), "CHECKSUMS.json: unreadable"),
        (
            lambda f: (f / "CHECKSUMS.json").write_text(
                (f / "CHECKSUMS.json").read_text().replace("a/one", "a/b/deep")
            ),
            "CHECKSUMS.json: its own checksum differs",
        ),
        (lambda f: f.rename(f.with_name("gone")), "the folder does not exist"),
    ],
)
def test_each_kind_of_damage_is_named(folder, damage, said):
    damage(folder)
    (problem,) = checksums.problems(folder)
    assert problem.startswith(said)


def test_one_entry_per_damaged_file(folder):
    (folder / "a/one").write_bytes(b"ONE")
    (folder / "a/b/deep").write_bytes(bytes(256 * 40_000))
    assert [line.split(":")[0] for line in checksums.problems(folder)] == ["a/b/deep", "a/one"]


def test_empty_folder_is_an_unfinished_save(tmp_path):
    assert checksums.problems(tmp_path) == ["the folder is empty (the save was not finished)"]
    assert not checksums.has_manifest(tmp_path)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 2), (16, 4), (128, 4)])
def test_checksums_of_a_save_leave_most_cores_to_the_training(
    tmp_path, monkeypatch, cores, threads
):
    used = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count):
            used.append(count)
            super().__init__(count)

    monkeypatch.setattr(checksums, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(checksums, "available_cores", lambda: cores)
    (tmp_path / "array").write_bytes(b"data")
    checksums.write_manifest(tmp_path)
    assert used == [threads]
    assert not checksums.problems(tmp_path)
