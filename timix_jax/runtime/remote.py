"""Everything in which files on Google Cloud Storage (`gs://bucket/folder`) differ from files on a disk.

etils.epath reads and writes them through gcsfs, Orbax's arrays go through tensorstore, and ArrayRecord reads shards in
its own C++. All three find the credentials of the machine (`gcloud auth application-default login`, or the service
account of a VM). An object appears whole or not at all and cannot be appended to; folders do not exist.
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
    """Return True for `gs://…` and other URLs, which have no file descriptors and no free space to query."""
    return "://" in os.fspath(path)


def as_path(path: epath.PathLike) -> epath.Path:
    """Return the path, with `~` expanded, after checking that it is local or on a supported store.

    Raises:
      UserError: The store is not gs://, its client is not installed, or a home folder is not known.
    """
    text = os.path.expanduser(os.fspath(path))
    if is_remote(text):
        if not text.startswith(_SCHEME) or not text.removeprefix(_SCHEME).strip("/"):
            raise UserError(f"{text!r}: give a local path or gs://BUCKET/FOLDER")
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{text!r} needs the package gcsfs: pip install 'timix-jax[gcs]'")
        _disable_listing_cache()
    if text.startswith("~"):
        raise UserError(f"{text!r}: there is no such home folder; write it out, or ./{text}")
    return epath.Path(text)


def local_only(path: epath.PathLike, option: str, fix: str) -> None:
    """Raise a UserError that ends in `fix` for a remote path, where only a disk will do."""
    if is_remote(path):
        raise UserError(f"{option} {os.fspath(path)}: must be a local path; {fix}")


def check_reachable(path: epath.Path, option: str) -> None:
    """Raise a UserError if the bucket of a remote path cannot be read; ignore local paths.

    A bucket that does not exist or that we may not read would otherwise look like an empty folder, or end the run with
    the client's traceback. The error is a RunError if a retry may succeed.
    """
    if not is_remote(path):
        return
    bucket = epath.Path(_SCHEME + os.fspath(path).removeprefix(_SCHEME).split("/")[0])
    try:
        next(bucket.iterdir(), None)
    except Exception as error:  # the client raises its own types, aiohttp's and google.auth's
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        # A pod's credentials may arrive seconds after its start, and a network may recover.
        final = isinstance(error, FileNotFoundError) or cause.startswith("Forbidden")
        raise (UserError if final else RunError)(
            f"{option}{path}: bucket {bucket} cannot be read ({cause}): check its name, and the credentials by gcloud "
            "auth application-default login"
        ) from error


def _disable_listing_cache() -> None:
    # gcsfs caches listings and would not see what other processes and tensorstore write.
    from fsspec.config import conf

    for protocol in ("gs", "gcs"):
        conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


class Mirror:
    """A local folder whose growing files are copied to a remote one in the background.

    Writers that append lines (metrics, TensorBoard's events) write here; files are copied every `period_s` seconds and
    at `flush`.

    **Example:**

        mirror = Mirror(epath.Path("gs://bucket/run"))
        with (mirror.folder / "metrics.jsonl").open("a") as file: ...
        mirror.tick()
    """

    def __init__(self, target: epath.Path, *, period_s: float = 30.0) -> None:
        """Create the local folder, which `close` removes."""
        self.folder = Path(tempfile.mkdtemp(prefix="timix_jax-"))
        self._target, self._period_s = target, period_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._pending: Future[None] | None = None
        self._sizes: dict[Path, int] = {}
        self._last = time.monotonic()

    def fetch(self, name: str) -> Path:
        """Copy a file of the remote folder here if it exists, and return its local path."""
        source, path = self._target / name, self.folder / name
        if source.exists():
            path.write_bytes(source.read_bytes())
            self._sizes[path] = path.stat().st_size
        return path

    def tick(self) -> None:
        """Start a copy if the last one is finished and `period_s` old; a failed copy is logged and retried."""
        if time.monotonic() - self._last < self._period_s:
            return
        if self._pending is not None:
            if not self._pending.done():
                return
            error = self._pending.exception()
            if error is not None:
                logging.warning("copying to %s failed and will be retried: %s", self._target, error)
        self._last = time.monotonic()
        self._pending = self._thread.submit(self._upload)

    def flush(self) -> None:
        """Return once everything written so far is in the remote folder; raise if it cannot be copied."""
        self._thread.submit(self._upload).result()

    def close(self) -> None:
        """Flush and remove the local folder, or keep it if flushing fails."""
        try:
            self.flush()
        except Exception:
            logging.error(
                "%s could not be written; its files remain in %s", self._target, self.folder
            )
            raise
        finally:
            self._thread.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _upload(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            size = path.stat().st_size
            # Files only grow here, so a new size means new contents.
            if path.is_file() and self._sizes.get(path) != size:
                data = path.read_bytes()
                (self._target / path.relative_to(self.folder).as_posix()).write_bytes(data)
                self._sizes[path] = len(data)
