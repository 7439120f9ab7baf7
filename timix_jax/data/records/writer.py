"""Writing a shard of records as an ArrayRecord file.

**Example:**

    with RecordWriter(folder / shard_name("coco", 0, 1)) as writer:
        writer.write(Record("000001", jpeg_bytes, ("a lemon and two skis",)))
    write_manifest(folder, "coco", [writer.summary])
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from array_record.python.array_record_module import ArrayRecordWriter

from timix_jax.data.records.annotated import key_hash
from timix_jax.data.records.manifest import ShardSummary, sha256_file
from timix_jax.data.records.schema import Record, encode_record
from timix_jax.errors import UserError

# Images are already compressed, so skipping the codec saves time; group size 1 gives random access.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class RecordWriter:
    """Writer of one shard, under a temporary name until it is closed; an error leaves no shard."""

    def __init__(self, path: Path):
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._writer = ArrayRecordWriter(str(self._temporary), _WRITER_OPTIONS)
        self._examples = self._captions = self._regions = 0
        self._annotated: list[tuple[int, int]] = []
        self._summary: ShardSummary | None = None

    def write(self, record: Record) -> None:
        """Append a record. Raises ValueError if it violates the schema."""
        data = encode_record(record)
        with self._reraise_write_errors():
            self._writer.write(data)
        if record.regions:
            self._annotated.append((self._examples, key_hash(record.key)))
        self._examples += 1
        self._captions += len(record.captions)
        self._regions += len(record.regions)

    @property
    def summary(self) -> ShardSummary:
        """Summary of the written records; available once the writer is closed."""
        if self._summary is None:
            raise RuntimeError(f"{self._path.name} is not closed yet")
        return self._summary

    def close(self) -> None:
        """Finish the shard: flush, checksum, rename.

        Raises:
          UserError: the shard cannot be written, for example because the disk is full.
        """
        with self._reraise_write_errors():
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
    def _reraise_write_errors(self) -> Iterator[None]:
        """Remove the partial file on a failed write and name the shard; ArrayRecord raises RuntimeError."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            self._temporary.unlink(missing_ok=True)
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._path}: cannot be written ({reason[:200]}); free some space, then run the same command again"
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
            with contextlib.suppress(RuntimeError):  # the propagating error says more
                self._writer.close()
            self._temporary.unlink(missing_ok=True)
