"""A lock between the processes of a machine."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for other processes; the file is created and stays."""
    # The open file holds the lock, so the system releases it when the process dies.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
