"""Lock a working folder so that only one run trains in it."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from absl import logging
from etils import epath

from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.runtime.remote import is_remote
from timix_jax.runtime.workdir import reraise_workdir_write_errors

LOCK_FILE = ".lock"
_WAIT_S = 20  # a run that was asked to stop may still be saving
_RETRY_S = 0.2


@contextlib.contextmanager
def only_run(workdir: epath.PathLike, *, wait_s: float | None = None) -> Iterator[None]:
    """Hold the folder for this run, on the first of its processes; remote folders are not locked.

    Raises:
      UserError: Another run is still training there after `wait_s` seconds (default 20).
    """
    if is_remote(epath.Path(workdir)) or not processes.is_first():
        yield
        return
    # The open file holds the lock: the system releases it however the process ends.
    path = Path(workdir) / LOCK_FILE
    with reraise_workdir_write_errors(epath.Path(workdir)):
        file = path.open("w")
    with file:
        _lock(file.fileno(), workdir, time.monotonic() + (_WAIT_S if wait_s is None else wait_s))
        yield


def _lock(file: int, workdir: epath.PathLike, until: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise UserError(
                    f"--workdir={workdir}: another run is training there; stop it, or choose another --workdir"
                ) from None
            time.sleep(_RETRY_S)
        except OSError as error:  # a network file system without locks
            logging.warning(
                "%s cannot be locked (%s): do not start a second run there", workdir, error
            )
            return
