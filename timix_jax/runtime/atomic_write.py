"""Write files that appear whole or not at all, to readers and after a crash."""

import contextlib
import os

from etils import epath

from timix_jax.runtime.remote import is_remote


def atomic_write_text(path: epath.PathLike, text: str) -> None:
    """Write `text` as UTF-8 with `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Write a file so that readers see either the old or the new contents, also after a crash.

    Local files are flushed to the disk before they are renamed, so that this also holds after a power failure. A
    remote object appears only once it is complete.
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
        with contextlib.suppress(OSError):  # report the first error
            temporary.unlink(missing_ok=True)
        raise
