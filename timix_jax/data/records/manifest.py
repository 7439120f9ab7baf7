"""The manifest of a folder of shards: its contents with sizes and checksums, written last."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_bytes
from timix_jax.runtime.remote import is_remote

MANIFEST = "manifest.json"
FORMAT = "timix_jax.records"
VERSION = 1

_THREADS = 16  # files checked at once: for remote files each check waits for a server


def shard_name(name: str, index: int, count: int) -> str:
    """Return the file name of shard `index` of `count`."""
    return f"{name}-{index:05d}-of-{count:05d}.array_record"


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """Contents of a shard; `annotated` holds (index in the shard, key hash) of examples with regions."""

    file: str
    examples: int
    captions: int
    regions: int
    bytes: int
    sha256: str
    annotated: tuple[tuple[int, int], ...] = ()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(
    folder: Path, name: str, shards: Sequence[ShardSummary], **extra: Any
) -> dict[str, Any]:
    """Write the index of annotated examples and, last, `manifest.json`.

    Args:
      folder: the folder of the shards.
      name: name of the data set, as in the shards' file names.
      shards: summaries in shard order.
      **extra: additional entries of the manifest (JSON values).

    Returns:
      The manifest.
    """
    starts = np.cumsum([0] + [shard.examples for shard in shards])
    rows = [
        (int(start) + index, hashed)
        for start, shard in zip(starts, shards, strict=False)
        for index, hashed in shard.annotated
    ]
    entries = [dataclasses.asdict(shard) for shard in shards]
    for entry in entries:
        entry["annotated"] = len(entry["annotated"])
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": name}
    for field in ("examples", "captions", "regions", "annotated", "bytes"):
        manifest[field] = sum(entry[field] for entry in entries)
    if rows:
        path = folder / f"{name}-annotated.npy"
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.save(file, np.asarray(rows, np.int64))
        temporary.replace(path)
        manifest["annotated_index"] = {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    manifest |= extra
    manifest["shards"] = entries
    atomic_write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    """Read and check the manifest of a prepared folder.

    Raises:
      UserError: the manifest is missing or of another format, or a shard is missing or has the
        wrong size.
    """
    folder = epath.Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder}: no {MANIFEST} here; create the folder with python -m timix_jax.data.prepare"
        )
    try:
        manifest = json.loads(path.read_bytes())
        known = manifest["format"] == FORMAT and manifest["version"] == VERSION
        files = [*manifest["shards"], *filter(None, [manifest.get("annotated_index")])]
        sizes = {entry["file"]: entry["bytes"] for entry in files if entry["sha256"]}
        counts = [int(entry["examples"]) for entry in (manifest, *manifest["shards"])]
        if counts[0] != sum(counts[1:]):
            raise ValueError(f"{counts[0]} examples, but {sum(counts[1:])} in its shards")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of prepared records ({error!r})") from error
    if not known:
        raise UserError(
            f"{path}: format {manifest['format']!r} version {manifest['version']!r}, expected "
            f"{FORMAT!r} version {VERSION}; {_fix(folder)}"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        actual_sizes = list(pool.map(lambda file: _size(folder / file), sizes))
    for (file, size), actual in zip(sizes.items(), actual_sizes, strict=True):
        if actual != size:
            state = "missing" if actual is None else f"{actual} bytes"
            raise UserError(
                f"{folder / file}: {state}, the manifest says {size} bytes; {_fix(folder)}"
            )
    return manifest


def read_annotated(folder: epath.PathLike, manifest: dict[str, Any]) -> np.ndarray:
    """Read the index of the examples that have regions: int64 (A, 2), index and `key_hash`.

    Raises:
      UserError: the file does not match the manifest's checksum.
    """
    index, folder = manifest.get("annotated_index"), epath.Path(folder)
    if not index:
        return np.zeros((0, 2), np.int64)
    data = (folder / index["file"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise UserError(
            f"{folder / index['file']}: damaged, its SHA-256 differs from the manifest's; {_fix(folder)}"
        )
    return np.load(io.BytesIO(data))


def _fix(folder: epath.Path) -> str:
    if is_remote(folder):
        return "upload the prepared folder again"
    return "delete the folder and prepare it again"  # prepare leaves a finished folder alone


def _size(path: epath.Path) -> int | None:
    try:
        return path.stat().length
    except FileNotFoundError:
        return None
