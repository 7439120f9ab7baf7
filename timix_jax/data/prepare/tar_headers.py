"""Finding all headers of a tar file, also behind an end-of-archive mark or a damaged block."""

import dataclasses
import tarfile
from collections.abc import Iterator
from typing import Self

from timix_jax.data.prepare.tasks import Problem

_BLOCK = 512  # bytes; a tar file consists of such blocks, and two blocks of zeros end it


class _NoHeader(tarfile.HeaderError):
    """Carries a block that is not a header."""

    def __init__(self, block: bytes) -> None:
        super().__init__("not a header")
        self.block = block


class _Header(tarfile.TarInfo):
    """A header whose errors say which block is not one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise _NoHeader(bytes(buf)) from error


class Archive(tarfile.TarFile):
    """A tar whose headers `tar_headers` reads, which also reads on behind a damaged one."""

    tarinfo = _Header

    def next(self) -> None:
        """Find no member. `open` calls this to learn whether the file is compressed."""
        assert self.fileobj is not None
        if len(self.fileobj.read(_BLOCK)) < _BLOCK:
            raise tarfile.ReadError("is not a tar file")


def tar_headers(archive: Archive, name: str) -> Iterator[tuple[str, tarfile.TarInfo] | Problem]:
    """Yield a label and the header of each member, and the problems of what belongs to none.

    `tarfile` itself stops at the first block of zeros or damaged header and tells nobody.

    Args:
      archive: a tar that was just opened; the caller may read a member before asking for the next.
      name: the file's name. It labels the members of the first archive in the file; those of a
        second archive that was joined to it are labelled `name#2`, and so on.

    Raises:
      tarfile.ReadError: the file is not a tar or ends in an extended header, or a header is forged.
    """
    file = archive.fileobj
    assert file is not None
    label, archives = name, 1
    zeros = 0  # blocks of zeros since the last member
    stray: _Stray | None = None
    member, seen = None, False
    while True:
        if member is not None:
            if stray:
                yield stray.problem(name, member.offset)
            elif zeros > 1 and seen:  # one block alone is damage
                archives += 1
                label = f"{name}#{archives}"
            zeros, stray, seen = 0, None, True
            yield label, member
        position, member = archive.offset, None
        file.seek(position)
        lost = 0  # bytes of this block that are neither a header nor zeros
        try:
            member = archive.tarinfo.fromtarfile(archive)
        except _NoHeader as error:
            size = len(error.block)
            if any(error.block):
                lost = size
            elif size == _BLOCK:
                zeros += 1
            elif not size:
                break
        except tarfile.HeaderError as error:  # of what an extended header belongs to
            if not file.read(1):
                raise tarfile.ReadError(str(error)) from error
            lost = size = _BLOCK
        if member is None:
            archive.offset = position + size
            if lost:
                stray = stray or _Stray(position, zeros > 1)
                stray.end = archive.offset
        elif archive.offset <= position:
            raise tarfile.ReadError(f"{member.name} has a negative size")
    if stray and not seen:
        raise tarfile.ReadError("is not a tar file")
    if stray:
        yield stray.problem(name, archive.offset if stray.after_end else stray.end)
    if not zeros:
        yield Problem("truncated tar", name, "no end-of-archive mark", skipped=False)


@dataclasses.dataclass
class _Stray:
    """Bytes `start` to `end` that belong to no member; `after_end`: of the archive."""

    start: int
    after_end: bool
    end: int = 0

    def problem(self, name: str, end: int) -> Problem:
        where = "after the end of the archive" if self.after_end else "behind a damaged header"
        detail = f"{end - self.start:,} bytes from byte {self.start:,} on, {where}"
        return Problem("unreadable bytes in tar", name, detail, skipped=False)
