"""Reading tar files that may be joined, truncated, damaged or forged."""

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from timix_jax.data.prepare.side_keys import normal_key
from timix_jax.data.prepare.tar_headers import Archive, tar_headers
from timix_jax.data.prepare.tasks import READ_ERROR, Problem, is_special, is_unsafe_path

_MAX_MEMBER = 1 << 30  # bytes; headers can be forged, and a member is held in memory


class TarMember(NamedTuple):
    """A regular file of a tar.

    `archive` is the tar's file name; after the first of several joined tars (`cat a.tar b.tar`)
    it ends in `#2`, `#3`, … `name` is free of `./`.
    """

    archive: str
    name: str
    data: bytes


def tar_members(tar: Path) -> Iterator[TarMember | Problem]:
    """Yield the regular files of a tar, compressed or not; nothing is unpacked to disk.

    Joined tars are read to the end of the file. What belongs to no member is a problem.
    """
    if is_special(tar):
        yield Problem("not a regular file", tar.name, "a FIFO, socket or device", skipped=False)
        return
    try:
        with _WatchedFile(io.FileIO(tar)) as file, _open(tar, file) as archive:
            for found in tar_headers(archive, tar.name):
                item = found if isinstance(found, Problem) else _member(archive, *found)
                if item is not None:
                    yield item
            if isinstance(archive.fileobj, bz2.BZ2File | lzma.LZMAFile) and not file.ended:
                yield _after_compressed(tar)
    # MemoryError: the library reads an extended header at once, whatever size it claims to have.
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        OSError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        detail = " ".join((getattr(error, "strerror", None) or str(error)).split())
        if _is_read_error(error):
            yield Problem(READ_ERROR, tar.name, detail)
            return
        if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
            yield _after_compressed(tar)
            return
        detail = detail or "a header asks for more memory than is available"
        yield Problem("truncated tar", tar.name, detail, skipped=False)


def _after_compressed(tar: Path) -> Problem:
    detail = "other bytes follow the end of the compressed data"
    return Problem("unreadable bytes in tar", tar.name, detail, skipped=False)


class _WatchedFile(io.BufferedReader):
    """A file that remembers whether it was read to its end.

    The standard library ignores whatever follows the last bzip2 or xz stream of a file: it stops
    reading there.
    """

    ended = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.ended = self.ended or not data
        return data


def _open(tar: Path, file: io.BufferedReader) -> Archive:
    try:
        return Archive.open(fileobj=file)
    except tarfile.ReadError as error:  # its message lists one line per compression method
        empty = not tar.stat().st_size
        raise tarfile.ReadError("is empty" if empty else "is not a tar file") from error


def _is_read_error(error: BaseException) -> bool:
    """Return True for an error of the disk or network, False for one of the file's contents."""
    # The decompressors raise OSError without a number. Invalid argument: a seek to a forged position.
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EISDIR)


def _member(
    archive: tarfile.TarFile, label: str, member: tarfile.TarInfo
) -> TarMember | Problem | None:
    where = f"{label}/{member.name}"
    if is_unsafe_path(member.name):
        return Problem("unsafe tar path", where)
    if member.isdir():
        return None
    name = normal_key(member.name)
    if name.rpartition("/")[2].startswith("."):
        return Problem("hidden file", where)  # has no key; macOS' tar adds such files
    if not member.isfile():
        return Problem("not a regular file", where)
    if member.size > _MAX_MEMBER and not _is_truncated(archive, member):
        return Problem("member above 1 GiB", where)
    return TarMember(label, name, _read(archive, member))


def _is_truncated(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    """Return True if the file is known, without reading it, to end before the member does."""
    # Compressed files are opened as another class; sparse members are larger than their stored data.
    if not isinstance(archive.fileobj, io.BufferedReader) or member.issparse():
        return False
    return member.offset_data + member.size > os.fstat(archive.fileobj.fileno()).st_size


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if _is_truncated(archive, member):
        raise tarfile.ReadError(f"{member.name} is truncated")
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} is truncated")
    return data
