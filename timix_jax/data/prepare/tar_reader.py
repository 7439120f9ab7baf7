"""Reading tar files that may be truncated, damaged or forged."""

import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from timix_jax.data.prepare.tasks import Problem, is_unsafe_path

_BLOCK = 512  # bytes; a tar file consists of such blocks, and a zero block ends it
_MAX_MEMBER = 1 << 30  # bytes; headers can be forged, and a member is held in memory


def tar_members(tar: Path) -> Iterator[tuple[str, bytes] | Problem]:
    """Yield name and bytes of the regular files; nothing is unpacked to disk."""
    try:
        with _open(tar) as archive:
            for member in archive:
                where = f"{tar.name}/{member.name}"
                if is_unsafe_path(member.name):
                    yield Problem("unsafe tar path", where)
                elif member.name.rpartition("/")[2].startswith("."):
                    yield Problem("hidden file", where)  # has no key; macOS' tar adds such files
                elif not member.isfile():
                    if not member.isdir():
                        yield Problem("not a regular file", where)
                elif member.size > _MAX_MEMBER and not _is_truncated(archive, member):
                    yield Problem("member above 1 GiB", where)
                else:
                    yield member.name, _read(archive, member)
            if not _has_end_mark(archive):
                yield Problem("truncated tar", tar.name, "no end-of-archive mark", skipped=False)
    # MemoryError: the library reads an extended header at once, whatever size it claims to have.
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        OSError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        detail = " ".join(str(error).split()) or "a header asks for more memory than is available"
        yield Problem("truncated tar", tar.name, detail, skipped=False)


def _open(tar: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(tar)
    except tarfile.ReadError as error:  # its message lists one line per compression method
        empty = not tar.stat().st_size
        raise tarfile.ReadError("is empty" if empty else "is not a tar file") from error


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


def _has_end_mark(archive: tarfile.TarFile) -> bool:
    # Python's reader treats the end of the file as the end of the archive; a cut between two members
    # shows only in the missing block of zeros.
    if archive.fileobj is None:
        return False
    archive.fileobj.seek(archive.offset)
    return archive.fileobj.read(_BLOCK) == bytes(_BLOCK)
