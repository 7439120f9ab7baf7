"""Files on Google Cloud Storage (`gs://bucket/folder`): what differs from a disk, in one place.

etils.epath reads and writes them through gcsfs, Orbax's arrays go through tensorstore, and ArrayRecord reads shards in
its own C++; all three find the credentials of the machine (`gcloud auth application-default login`, or the service
account of a VM). An object appears whole or not at all and cannot be appended to; there are no folders.
"""

import importlib.util
import os
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from absl import logging
from etils import epath

from timix_jax.errors import RunError, UserError

_SCHEME = "gs://"


def is_remote(path: epath.PathLike) -> bool:
    """True for `gs://…` and its like: no file descriptors, no free space to ask for."""
    return "://" in os.fspath(path)


def as_path(path: epath.PathLike) -> epath.Path:
    """The path, once it is found to be local or on a store that can be used.

    Raises:
      UserError: another store than gs://, or its client is not installed.
    """
    text = os.fspath(path)
    if is_remote(text):
        if not text.startswith(_SCHEME) or not text.removeprefix(_SCHEME).strip("/"):
            raise UserError(f"{text!r}: give a local path or gs://BUCKET/FOLDER")
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{text!r} needs the package gcsfs: pip install 'timix-jax[gcs]'")
        _always_list_anew()
    return epath.Path(path)


def local_only(path: epath.PathLike, option: str, mend: str) -> None:
    """Raises a UserError for a remote path where only a disk will do."""
    if is_remote(path):
        raise UserError(f"{option} {os.fspath(path)}: must be a local path; {mend}")


def check_reachable(path: epath.Path, option: str) -> None:
    """Raises a UserError unless a remote path can be asked for; a local one is not touched.

    A bucket that does not exist or is not ours to read would otherwise look like a folder without files, or end the
    run with the client's traceback. A RunError where it may be there when asked again.
    """
    if not is_remote(path):
        return
    bucket = epath.Path(_SCHEME + os.fspath(path).removeprefix(_SCHEME).split("/")[0])
    try:
        next(bucket.iterdir(), None)
    except Exception as error:  # the client raises its own types, aiohttp's and google.auth's
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        # A pod's credentials may come seconds after its start, and a network comes back.
        final = isinstance(error, FileNotFoundError) or cause.startswith("Forbidden")
        raise (UserError if final else RunError)(
            f"{option}{path}: bucket {bucket} cannot be read ({cause}): check its name, and the credentials by gcloud "
            "auth application-default login"
        ) from error


def _always_list_anew() -> None:
    # gcsfs remembers listings; what other processes and tensorstore write would not be seen.
    from fsspec.config import conf

    for protocol in ("gs", "gcs"):
        conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


class Mirror:
    """A local folder whose growing files are copied to a remote one, in the background.

    What makes lines one after the other (metrics, TensorBoard's events) writes here; a copy goes out every
    `period_s` seconds and at `flush`.

    **Example:**

        mirror = Mirror(epath.Path("gs://bucket/run"))
        with (mirror.folder / "metrics.jsonl").open("a") as file: ...
        mirror.tick()
    """

    def __init__(self, target: epath.Path, *, period_s: float = 30.0) -> None:
        """Makes the local folder; it goes with `close`."""
        self.folder = Path(tempfile.mkdtemp(prefix="timix_jax-"))
        self._target, self._period_s = target, period_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._pending: Future[None] | None = None
        self._sizes: dict[Path, int] = {}
        self._last = time.monotonic()

    def fetch(self, name: str) -> Path:
        """Copies a file of the remote folder here, if it is there; returns its local path."""
        source, path = self._target / name, self.folder / name
        if source.exists():
            path.write_bytes(source.read_bytes())
            self._sizes[path] = path.stat().st_size
        return path

    def tick(self) -> None:
        """Starts a copy where the last one is `period_s` old and done; a failed one is logged and tried again."""
        if time.monotonic() - self._last < self._period_s:
            return
        if self._pending is not None:
            if not self._pending.done():
                return
            error = self._pending.exception()
            if error is not None:
                logging.warning("copying to %s failed and is tried again: %s", self._target, error)
        self._last = time.monotonic()
        self._pending = self._thread.submit(self._upload)

    def flush(self) -> None:
        """Returns when everything that was written before is on the remote folder; raises where it cannot be."""
        self._thread.submit(self._upload).result()

    def close(self) -> None:
        """Flushes and removes the local folder, which stays where that fails."""
        try:
            self.flush()
        except Exception:
            logging.error(
                "%s could not be written; its files are left in %s", self._target, self.folder
            )
            raise
        finally:
            self._thread.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _upload(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            size = path.stat().st_size
            # Files only grow here, so that the size tells whether there is anything new.
            if path.is_file() and self._sizes.get(path) != size:
                data = path.read_bytes()
                (self._target / path.relative_to(self.folder).as_posix()).write_bytes(data)
                self._sizes[path] = len(data)
