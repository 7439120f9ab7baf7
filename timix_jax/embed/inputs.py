"""What is embedded: the images of a folder or of tar files, in a fixed order, in parts."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

from timix_jax.data.prepare.tar_captions import CaptionRules, read_captions
from timix_jax.data.prepare.tasks import READ_ERROR, Note, Problem, file_state, is_special
from timix_jax.data.prepare.webdataset import IMAGE_SUFFIXES, expand_braces, tar_samples
from timix_jax.errors import RunError, UserError
from timix_jax.runtime.remote import local_only

_RULES = CaptionRules()
# Failures of a disk or network, not of one file: the part is not recorded, so that the same command repeats it.
_PASSING = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)


class Skipped(NamedTuple):
    """A file that is left out, or only its caption if `embedded`."""

    path: str
    reason: str
    embedded: bool = False


class Item(NamedTuple):
    """An image to embed; `data` is read from `path` if it is None."""

    path: str
    data: bytes | None = None
    caption: str | None = None


class FolderPart(NamedTuple):
    """Some images of a folder, each next to a text file with its caption, if there is one."""

    paths: tuple[Path, ...]

    @property
    def size(self) -> int | None:
        """Number of images."""
        return len(self.paths)

    @property
    def weight(self) -> int:
        """The work, in any unit."""
        return len(self.paths)

    def items(self) -> Iterator[Item | Skipped]:
        """Yield the images without reading them."""
        return (Item(str(path)) for path in self.paths)


class TarPart(NamedTuple):
    """All samples of a tar file, as img2dataset writes them."""

    tar: Path

    @property
    def size(self) -> int | None:
        """Not known before the file is read."""
        return None

    @property
    def weight(self) -> int:
        """Bytes."""
        return self.tar.stat().st_size

    def items(self) -> Iterator[Item | Skipped]:
        """Yield the samples with an image, and what is wrong with the file.

        Raises:
          RunError: the disk or network fails.
        """
        for sample in tar_samples(self.tar):
            if isinstance(sample, Problem):
                if sample.reason == READ_ERROR:
                    raise RunError(f"{self.tar} cannot be read ({sample.detail})")
                yield Skipped(str(self.tar.with_name(sample.key)), _reason(sample))
                continue
            where = str(self.tar.with_name(sample.archive) / sample.key)
            extension = next((name for name in IMAGE_SUFFIXES if name in sample.members), None)
            if extension is None:
                yield Skipped(where, f"no image, only {', '.join(sample.members)}")
                continue
            captions, remarks = read_captions(sample.members, where, _RULES)
            for remark in remarks:
                if not isinstance(remark, Note):
                    yield Skipped(where, _reason(remark), embedded=True)
            caption = next((text for text in captions if text), None)
            yield Item(f"{where}.{extension}", sample.members[extension], caption)


Part = FolderPart | TarPart


def _reason(problem: Problem) -> str:
    return f"{problem.reason}: {problem.detail}".removesuffix(": ")


def read_item(item: Item) -> Item | Skipped:
    """Return the item with its bytes, and its caption if it is a file of a folder.

    Raises:
      RunError: the disk or network fails.
    """
    if item.data is not None:
        return item
    path = Path(item.path)
    if is_special(path):
        return Skipped(item.path, "not a regular file: a FIFO, socket or device")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name no file can have
        _raise_if_passing(path, error)
        return Skipped(item.path, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    return Item(item.path, data, _caption_beside(path))


def _caption_beside(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    if is_special(text) or not text.is_file():
        return None
    try:
        captions, _ = read_captions({"txt": text.read_bytes()}, str(text), _RULES)
    except OSError as error:
        _raise_if_passing(text, error)
        return None
    return next((caption for caption in captions if caption), None)


def _raise_if_passing(path: Path, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in _PASSING:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error


def find_parts(images: str, part_size: int) -> list[Part]:
    """Find what a command line names.

    Args:
      images: a folder of images, with all folders in it; tar files, as a path with `*`, `?`, `{a,b}` or `{0000..0099}`;
        or a folder of tar files without images.
      part_size: images of a folder per part; each tar file is a part of its own.

    Returns:
      Parts, whose images are in the order of their sorted paths.

    Raises:
      UserError: there are no images.
    """
    local_only(images, "IMAGES", "copy or mount them")
    folder = Path(os.path.abspath(os.path.expanduser(images)))
    if folder.is_dir():
        paths, tars = _listing(folder)
        if paths:
            return [
                FolderPart(tuple(paths[start : start + part_size]))
                for start in range(0, len(paths), part_size)
            ]
        if not tars:
            known = ", ".join(IMAGE_SUFFIXES[:5])
            raise UserError(f"{images}: holds no image file ({known}, …) and no .tar file")
        return [TarPart(tar) for tar in tars]
    found: list[Part] = []
    for pattern in expand_braces(str(folder)):
        matches = sorted(glob(pattern))
        if not matches:
            raise UserError(f"{images}: no such file or folder {pattern}")
        found += [TarPart(Path(match)) for match in matches]
    other = [
        part.tar for part in found if isinstance(part, TarPart) and ".tar" not in part.tar.name
    ]
    if other:
        raise UserError(f"{other[0]}: give a folder of images, or tar files")
    return found


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images below a folder and its tar files, each in the order of their sorted paths."""
    images, tars = [], []

    def fail(error: OSError) -> None:
        raise RunError(f"{error.filename} cannot be listed ({error.strerror})") from error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = name.rpartition(".")[2].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(os.path.join(place, name))
            elif suffix == "tar":
                tars.append(os.path.join(place, name))
    return [Path(path) for path in sorted(images)], [Path(path) for path in sorted(tars)]


def digest(parts: Sequence[Part]) -> str:
    """Return a digest of what the parts hold: the names of images, or names and states of tar files."""
    sums = hashlib.sha256()
    root = os.path.commonpath([name.parent for part in parts for name in _names(part)])
    for part in parts:
        for name in _names(part):
            sums.update(os.fsencode(os.path.relpath(name, root)) + b"\0")
        sums.update(b"\n" if isinstance(part, FolderPart) else file_state(part.tar).encode())
    return sums.hexdigest()


def _names(part: Part) -> Sequence[Path]:
    return part.paths if isinstance(part, FolderPart) else (part.tar,)
