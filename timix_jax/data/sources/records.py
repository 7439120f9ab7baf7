"""The source `records:FOLDER`: a folder of shards with a manifest, local or in a bucket.

**Example:**

    RecordSource(folder)[0].captions
"""

import hashlib
import os

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

from timix_jax.data.records.annotated import select_annotated
from timix_jax.data.records.manifest import MANIFEST, read_annotated, read_manifest
from timix_jax.data.records.schema import CorruptExample, Record, decode_record
from timix_jax.data.sources.local_copy import local_copy
from timix_jax.errors import UserError
from timix_jax.runtime.remote import as_path, is_remote


class RecordSource:
    """Random access to a prepared folder; picklable and safe to share between threads.

    Args:
      path: the folder, local or `gs://…`.
      annotated: share of the annotated examples whose regions the trainer sees.
      cache: a local folder to copy a remote one to first; empty means one request per example.

    Raises:
      UserError: the folder is incomplete or empty, or the share is outside [0, 1].
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
                raise UserError(f"{folder}?cache={cache}: already local; drop cache=")
            folder = epath.Path(local_copy(folder, manifest, cache))
        self._annotated = select_annotated(read_annotated(folder, manifest), annotated)
        # Passing the counts avoids opening any shard before it is read.
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
        """Record `index`. Raises CorruptExample if its storage is damaged."""
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
    """Open a prepared folder; see `RecordSource`."""
    if not path:
        raise UserError("data source 'records:' names no folder; write records:/path/to/folder")
    return RecordSource(path, annotated=annotated, cache=cache)
