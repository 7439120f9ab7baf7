"""Files that are there whole or not at all, for readers and after a crash."""

import contextlib
import os

from etils import epath

from timix_jax.runtime.remote import is_remote


def atomic_write_text(path: epath.PathLike, text: str) -> None:
    """Writes `text` (UTF-8) like `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new one.

    Local files are flushed to the disk before they take the name, so that this holds after a
    power cut as well. A remote object appears when it is complete, without our doing.
    """
    path = epath.Path(path)
    if is_remote(path):
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to be told
            temporary.unlink(missing_ok=True)
        raise
