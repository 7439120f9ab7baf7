"""A manifest of SHA-256 checksums: its presence marks a folder as complete, its contents prove it undamaged."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.machine import available_cores

MANIFEST_FILE = "CHECKSUMS.json"

_BLOCK_BYTES = 1 << 22
_THREADS = 4  # hashlib releases the GIL
# A save runs beside the training: on two cores, four hashing threads cost the loader two fifths of its images.
_CORES_PER_THREAD = 4


def write_manifest(folder: epath.PathLike) -> None:
    """Write `CHECKSUMS.json`: size and SHA-256 of every file below `folder`, and a checksum of the manifest itself.

    The file appears whole or not at all. Call this once nothing writes to the folder any more.
    """
    folder = epath.Path(folder)
    names = sorted(name for name in _files(folder) if name != MANIFEST_FILE)
    with ThreadPoolExecutor(_writing_threads()) as pool:
        sums = pool.map(lambda name: _size_and_sum(folder / name), names)
        files = {
            name: {"bytes": size, "sha256": digest}
            for name, (size, digest) in zip(names, sums, strict=True)
        }
    atomic_write_text(
        folder / MANIFEST_FILE,
        json.dumps({"files": files, "sha256": _sum_of_entries(files)}, indent=1),
    )


def has_manifest(folder: epath.PathLike) -> bool:
    """Return True if the folder was marked as complete."""
    return (epath.Path(folder) / MANIFEST_FILE).exists()


def problems(folder: epath.PathLike) -> list[str]:
    """List what is wrong with the files of `folder`, such as `["a/b: 10 bytes, not 20 (truncated)"]`.

    Returns:
      An empty list if every file of the manifest is there with its size and checksum. Files that the manifest does not
      name are ignored. All sizes are compared before anything is read.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return ["the folder does not exist"]
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["sha256"] != _sum_of_entries(files):
            return [f"{MANIFEST_FILE}: its own checksum differs (damaged)"]
    except FileNotFoundError:
        if not folder.is_dir():
            return ["the folder does not exist"]
        what = "the folder is empty" if not any(folder.iterdir()) else f"{MANIFEST_FILE} is missing"
        return [f"{what} (the save was not finished)"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST_FILE}: unreadable ({error})"]
    found = [problem for name in files if (problem := _size_problem(folder, name, files[name]))]
    if found:
        return found
    with ThreadPoolExecutor(_THREADS) as pool:
        found_each = pool.map(lambda name: _content_problem(folder, name, files[name]), files)
        return [problem for problem in found_each if problem]


def _writing_threads() -> int:
    return min(_THREADS, max(1, available_cores() // _CORES_PER_THREAD))


def _size_problem(folder: epath.Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        size = (folder / name).stat().length
    except FileNotFoundError:
        return f"{name}: missing"
    if size != entry["bytes"]:
        how = "truncated" if size < entry["bytes"] else "grown"
        return f"{name}: {size} bytes, not {entry['bytes']} ({how})"
    return None


def _content_problem(folder: epath.Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        _, digest = _size_and_sum(folder / name)
    except FileNotFoundError:  # deleted since its size was read
        return f"{name}: missing"
    return (
        None
        if digest == entry["sha256"]
        else f"{name}: its bytes differ from those saved (SHA-256)"
    )


def _files(folder: epath.Path, prefix: str = "") -> list[str]:
    names: list[str] = []
    for child in folder.iterdir():
        name = prefix + child.name
        names += _files(child, f"{name}/") if child.is_dir() else [name]
    return names


def _size_and_sum(path: epath.Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _sum_of_entries(files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
