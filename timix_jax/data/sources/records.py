"""Sharded ArrayRecord storage of examples, with a manifest.

A prepared folder holds shards `NAME-00000-of-00008.array_record` and, written last, the manifest.

**Example:**

    from timix_jax.data.sources.manifest import shard_name, write_manifest
    from timix_jax.data.record_schema import Record

    with RecordWriter(folder / shard_name("coco", 0, 1)) as writer:
        writer.write(Record("000001", jpeg_bytes, ("a lemon and two skis",)))
    write_manifest(folder, "coco", [writer.summary])
    RecordSource(folder)[0].captions
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from timix_jax.data.record_schema import CorruptExample, Record, decode_record, encode_record
from timix_jax.data.sources.local_copy import local_copy
from timix_jax.data.sources.manifest import (
    MANIFEST,
    ShardSummary,
    read_annotated,
    read_manifest,
    sha256_file,
)
from timix_jax.errors import UserError
from timix_jax.runtime.remote import as_path, is_remote

# Images are compressed already: group size 1 gives random access, and no codec saves the time.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def key_hash(key: str) -> int:
    """A hash of an example's key in [0, 2**32), the same on every machine and sharding."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


def select_annotated(annotated: np.ndarray, fraction: float) -> np.ndarray:
    """Chooses the region-bearing examples whose regions the trainer sees.

    Args:
      annotated: int64 (A, 2), index and `key_hash` of each example that has regions.
      fraction: share to keep, chosen by the hash, so that a larger share contains a smaller one.

    Returns:
      int64 (A',) indices.

    Raises:
      UserError: if the fraction is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"annotated={fraction:g}: a fraction of the examples, give 0 to 1")
    return annotated[annotated[:, 1] < fraction * 2**32, 0]


class RecordWriter:
    """Writes one shard under a temporary name, renamed when closed; an error leaves no shard."""

    def __init__(self, path: Path):
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._writer = ArrayRecordWriter(str(self._temporary), _WRITER_OPTIONS)
        self._examples = self._captions = self._regions = 0
        self._annotated: list[tuple[int, int]] = []
        self._summary: ShardSummary | None = None

    def write(self, record: Record) -> None:
        """Appends a record. Raises ValueError if it breaks the schema."""
        data = encode_record(record)
        with self._written_or_named():
            self._writer.write(data)
        if record.regions:
            self._annotated.append((self._examples, key_hash(record.key)))
        self._examples += 1
        self._captions += len(record.captions)
        self._regions += len(record.regions)

    @property
    def summary(self) -> ShardSummary:
        """What was written; known once the writer is closed."""
        if self._summary is None:
            raise RuntimeError(f"{self._path.name} is not closed yet")
        return self._summary

    def close(self) -> None:
        """Finishes the shard: flush, checksum, rename.

        Raises:
          UserError: it cannot be written, as on a full disk.
        """
        with self._written_or_named():
            self._writer.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
        self._summary = ShardSummary(
            file=self._path.name,
            examples=self._examples,
            captions=self._captions,
            regions=self._regions,
            bytes=self._temporary.stat().st_size,
            sha256=sha256_file(self._temporary),
            annotated=tuple(self._annotated),
        )
        self._temporary.replace(self._path)

    @contextlib.contextmanager
    def _written_or_named(self) -> Iterator[None]:
        """A failed write, of which ArrayRecord makes a RuntimeError, leaves no part and names the shard."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            self._temporary.unlink(missing_ok=True)
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._path}: cannot be written ({reason[:200]}); make room, then run the same command again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(RuntimeError):  # the error that is on its way says more
                self._writer.close()
            self._temporary.unlink(missing_ok=True)


class RecordSource:
    """Random access to a prepared folder; safe to share between threads and to pickle.

    Args:
      path: the folder, local or `gs://…`.
      annotated: share of the region-bearing examples given to the trainer.
      cache: a local folder to copy a remote one to first; empty: each example is a request.

    Raises:
      UserError: if the folder is not complete, is empty or the share is not in [0, 1].
    """

    def __init__(self, path: str | os.PathLike[str], *, annotated: float = 1.0, cache: str = ""):
        folder = as_path(path)
        manifest = read_manifest(folder)
        if not manifest["examples"]:
            raise UserError(f"{folder}: holds no examples; see its {MANIFEST} for what was skipped")
        self.name = f"records:{folder}"
        self.manifest = manifest
        sums = " ".join(entry["sha256"] for entry in manifest["shards"])
        self.digest = hashlib.sha256(sums.encode()).hexdigest()
        if cache:
            if not is_remote(folder):
                raise UserError(f"{folder}?cache={cache}: is local already; drop cache=")
            folder = epath.Path(local_copy(folder, manifest, cache))
        self._annotated = select_annotated(read_annotated(folder, manifest), annotated)
        # The counts are known, so that no shard is opened before it is read.
        self._records = ArrayRecordDataSource(
            [
                f"{folder / entry['file']}[0:{entry['examples']}]"
                for entry in manifest["shards"]
                if entry["examples"]
            ]
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """Record `index`. Raises CorruptExample where storage is damaged, IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)}")
        name = f"{self.name}[{index}]"
        try:
            data = self._records[index]
        except (RuntimeError, OSError) as error:
            raise CorruptExample(name, f"unreadable: {error}") from error
        return decode_record(data, name)

    @property
    def annotated(self) -> np.ndarray:
        """int64 (A,) indices of the examples whose regions the trainer sees."""
        return self._annotated


def open_records(path: str, *, annotated: float = 1.0, cache: str = "") -> RecordSource:
    """Opens a prepared folder; see `RecordSource`."""
    if not path:
        raise UserError("data source 'records:' names no folder; write records:/path/to/folder")
    return RecordSource(path, annotated=annotated, cache=cache)
