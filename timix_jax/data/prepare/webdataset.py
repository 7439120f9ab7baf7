"""webdataset tar shards as img2dataset writes them: `NNN.jpg` with `NNN.txt`, `NNN.json`."""

import hashlib
import io
import itertools
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import NamedTuple

from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.tasks import (
    Example,
    Problem,
    file_state,
    split_evenly,
    unsafe_path,
)
from timix_jax.errors import UserError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MAX_FILES = 1_000_000  # that braces may name
_BLOCK = 512  # bytes; a tar file is made of them, and a zero one ends it
_MAX_MEMBER = 1 << 30  # bytes; a header may say anything, and a member is held in memory


class TarTask(NamedTuple):
    """A shard made of whole tar files."""

    tars: tuple[Path, ...]
    caption_field: str = "caption"  # of NNN.json
    regions: Path | None = None  # side file

    @property
    def size(self) -> None:
        return None

    def fingerprint(self) -> str:
        files = [*self.tars, self.regions] if self.regions else self.tars
        states = [(path.name, file_state(path)) for path in files]
        return hashlib.sha256(repr((states, self.caption_field)).encode()).hexdigest()

    def items(self) -> Iterator[Example | Problem]:
        for tar in self.tars:
            keys = set[str]()  # of this tar: many data sets number each tar's samples from 0
            for item in _samples(tar):
                if isinstance(item, Problem):
                    yield item
                    continue
                for found in _example(tar, *item, self.caption_field, self.regions):
                    if isinstance(found, Problem):
                        yield found
                    elif found.key in keys:
                        yield Problem("duplicate key", f"{tar.name}/{found.key}")
                    else:
                        keys.add(found.key)
                        yield found


def webdataset_tasks(
    shards: str, *, caption_field: str, regions: Path | None, num_shards: int | None
) -> list[TarTask]:
    """Finds the tar files of a pattern and spreads them over the output shards.

    Args:
      shards: a path with `*`, `?`, `{a,b}` and `{0000..0099}`.
      caption_field: of `NNN.json`: a string or a list of strings.
      regions: side file, by sample key or image name.
      num_shards: number of output shards, at most the number of tar files; None: one for each.

    Raises:
      UserError: a file that is named without `*` is missing, nothing matches, braces name too many files, or
        too many shards.
    """
    found: dict[Path, None] = {}
    for pattern in expand_braces(shards):
        matches = sorted(glob(pattern))
        if not matches:
            raise UserError(f"--shards {shards}: no file {pattern}")
        found.update(dict.fromkeys(map(Path, matches)))
    tars = list(found)
    count = num_shards or len(tars)
    if count > len(tars):
        raise UserError(
            f"--num-shards {count}: only {len(tars)} tar files to spread; give at most that"
        )
    if regions is not None:
        read_regions(regions)  # a bad file is reported before anything is written
    return [
        TarTask(tuple(tars[part]), caption_field, regions)
        for part in split_evenly(len(tars), count)
    ]


def expand_braces(pattern: str) -> list[str]:
    """Expands `{a,b}` and `{000..099}` (leading zeros kept), as a shell does.

    Raises:
      UserError: more than a million results.
    """
    expanded = list(itertools.islice(_expand(pattern), _MAX_FILES + 1))
    if len(expanded) > _MAX_FILES:
        raise UserError(
            f"--shards {pattern}: its braces name more than {_MAX_FILES:,} files; give a smaller range, or *"
        )
    return expanded


def _expand(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    choices: Iterable[str]
    span = _RANGE.fullmatch(match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        choices = (str(i).zfill(len(span[1])) for i in range(first, last + step, step))
    else:
        choices = match[1].split(",")
    start, end = pattern[: match.start()], pattern[match.end() :]
    for choice in choices:
        yield from _expand(start + choice + end)


def _samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]] | Problem]:
    """Consecutive members that share a key: (key, {extension: bytes}).

    A member's key is its path up to the first dot of its file name.
    """
    key, members = "", dict[str, bytes]()
    for item in _members(tar):
        if isinstance(item, Problem):
            yield item
            continue
        name, data = item
        folder, slash, file = name.rpartition("/")
        stem, _, extension = file.partition(".")
        if folder + slash + stem != key:
            if members:
                yield key, members
            key, members = folder + slash + stem, {}
        if extension.lower() in members:
            yield Problem("duplicate member", f"{tar.name}/{name}", skipped=False)
        else:
            members[extension.lower()] = data
    if members:
        yield key, members


def _members(tar: Path) -> Iterator[tuple[str, bytes] | Problem]:
    """Name and bytes of the regular files; nothing is unpacked to disk."""
    try:
        with _open(tar) as archive:
            for member in archive:
                where = f"{tar.name}/{member.name}"
                if unsafe_path(member.name):
                    yield Problem("unsafe tar path", where)
                elif member.name.rpartition("/")[2].startswith("."):
                    yield Problem("hidden file", where)  # has no key; macOS' tar adds such ones
                elif not member.isfile():
                    if not member.isdir():
                        yield Problem("not a regular file", where)
                elif member.size > _MAX_MEMBER and not _ends_early(archive, member):
                    yield Problem("member above 1 GiB", where)
                else:
                    yield member.name, _read(archive, member)
            if not _has_end(archive):
                yield Problem("truncated tar", tar.name, "no end-of-archive mark", skipped=False)
    # MemoryError: the library reads an extended header at once, whatever size it says it has.
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        OSError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        detail = " ".join(str(error).split()) or "a header asks for more memory than there is"
        yield Problem("truncated tar", tar.name, detail, skipped=False)


def _open(tar: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(tar)
    except tarfile.ReadError as error:  # it lists what each method of compression has to say
        empty = not tar.stat().st_size
        raise tarfile.ReadError("is empty" if empty else "is no tar file") from error


def _ends_early(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    """Whether the file ends before the member does, where that can be told without reading it."""
    # A compressed file is opened as another class; a sparse member is larger than what is stored of it.
    if not isinstance(archive.fileobj, io.BufferedReader) or member.issparse():
        return False
    return member.offset_data + member.size > os.fstat(archive.fileobj.fileno()).st_size


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if _ends_early(archive, member):
        raise tarfile.ReadError(f"{member.name} ends early")
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends early")
    return data


def _has_end(archive: tarfile.TarFile) -> bool:
    # Python's reader takes the end of the file for the end of the archive; a cut between two
    # members shows only in the missing block of zeros.
    if archive.fileobj is None:
        return False
    archive.fileobj.seek(archive.offset)
    return archive.fileobj.read(_BLOCK) == bytes(_BLOCK)


def _example(
    tar: Path, key: str, members: dict[str, bytes], caption_field: str, regions: Path | None
) -> Iterator[Example | Problem]:
    image = next((members[extension] for extension in _IMAGES if extension in members), None)
    extension = next((extension for extension in _IMAGES if extension in members), "")
    where = f"{tar.name}/{key}"
    if image is None:
        yield Problem("missing image", where, f"only {', '.join(members)}")
        return
    captions: list[str] = []
    if "txt" in members:
        captions.append(members["txt"].decode("utf-8", errors="replace"))
    if "json" in members:
        try:
            captions.extend(_json_captions(members["json"], caption_field))
        except (ValueError, RecursionError) as error:
            yield Problem("unreadable JSON", where, str(error)[:200], skipped=False)
    table = read_regions(regions) if regions else {}
    found = table.get(key) or table.get(f"{key}.{extension}", ())
    # img2dataset writes the same caption to both files.
    unique = tuple({" ".join(caption.split()): None for caption in captions})
    yield Example(key, image, unique, found)


def _json_captions(data: bytes, field: str) -> list[str]:
    entry = json.loads(data)
    captions = entry.get(field) if isinstance(entry, dict) else None
    if captions is None:
        return []
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise ValueError(f"{field!r} is neither a string nor a list of strings")
    return captions
