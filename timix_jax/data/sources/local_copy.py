"""Local copies of remote record folders: random access to a bucket would cost a request per example."""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath
from tqdm import tqdm

from timix_jax.data.records.manifest import MANIFEST, sha256_file
from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_bytes
from timix_jax.runtime.file_lock import exclusive_lock
from timix_jax.runtime.remote import local_only

_BLOCK_BYTES = 1 << 23
_THREADS = 8
_SPARE_BYTES = 1 << 28  # left free on the disk


def local_copy(folder: epath.Path, manifest: dict[str, Any], cache: str) -> Path:
    """Copy the files of a manifest that are not on disk yet, verifying each one's SHA-256.

    When several processes of a machine call this at once, one copies and the others wait. An
    interrupted copy is continued; for a complete one only the sizes are checked.

    Args:
      folder: the remote folder.
      manifest: the result of `read_manifest`.
      cache: local folder of all copies; this copy goes below it, under the remote path's name.

    Returns:
      The folder of the copy.

    Raises:
      UserError: the disk is too small, the cache is not a local folder, or a file does not match
        its checksum.
    """
    local_only(cache, "cache=", "copy to a disk of the machine")
    target = Path(cache).expanduser() / folder.as_posix().partition("://")[2]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache={cache}: {target} cannot be created: {error.strerror}") from error
    files = [*manifest["shards"], *filter(None, [manifest.get("annotated_index")])]
    manifest_bytes = (json.dumps(manifest, indent=2) + "\n").encode()
    with exclusive_lock(target / ".lock"):
        manifest_file = target / MANIFEST
        complete = manifest_file.exists() and manifest_file.read_bytes() == manifest_bytes
        if complete and all(_has_size(target, entry) for entry in files):
            return target
        manifest_file.unlink(missing_ok=True)
        missing = [entry for entry in files if not _is_intact(target, entry)]
        _check_space(target, sum(entry["bytes"] for entry in missing), cache)
        logging.info("copying %d files of %s to %s", len(missing), folder, target)
        size = sum(entry["bytes"] for entry in missing)
        with (
            tqdm(total=size, desc=target.name, unit="B", unit_scale=True, mininterval=1) as bar,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            copies = [pool.submit(_copy, folder, target, entry, bar.update) for entry in missing]
            try:
                for copy in copies:
                    copy.result()
            finally:
                pool.shutdown(cancel_futures=True)
        atomic_write_bytes(manifest_file, manifest_bytes)
    return target


def _copy(
    folder: epath.Path, target: Path, entry: dict[str, Any], progress: Callable[[int], object]
) -> None:
    name = entry["file"]
    temporary, digest = target / f"{name}.tmp", hashlib.sha256()
    with (folder / name).open("rb") as source, temporary.open("wb") as file:
        while block := source.read(_BLOCK_BYTES):
            file.write(block)
            digest.update(block)
            progress(len(block))
    if digest.hexdigest() != entry["sha256"]:
        temporary.unlink()
        raise UserError(
            f"{folder / name}: does not match the manifest's SHA-256; prepare and upload the data again"
        )
    temporary.replace(target / name)


def _has_size(target: Path, entry: dict[str, Any]) -> bool:
    path = target / entry["file"]
    return path.is_file() and path.stat().st_size == entry["bytes"]


def _is_intact(target: Path, entry: dict[str, Any]) -> bool:
    return _has_size(target, entry) and sha256_file(target / entry["file"]) == entry["sha256"]


def _check_space(target: Path, needed: int, cache: str) -> None:
    free = shutil.disk_usage(target).free
    if needed and needed + _SPARE_BYTES > free:
        raise UserError(
            f"cache={cache}: the copy needs {needed:,} more bytes, {free:,} are free there; name a larger disk, or "
            "drop cache= to read from the bucket"
        )
