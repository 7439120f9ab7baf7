"""Data that a format hands to the engine: tasks, examples and named problems."""

import hashlib
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from timix_jax.data.records.schema import Region


class RawExample(NamedTuple):
    """An image and its texts as found in the input, unchecked."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()


class Problem(NamedTuple):
    """Something left out: a whole example if `skipped`, otherwise part of one."""

    reason: str
    key: str
    detail: str = ""
    skipped: bool = True

    def __str__(self) -> str:
        return f"{self.reason} {self.key}: {self.detail}".removesuffix(": ")


class ShardTask(Protocol):
    """The inputs of one output shard, picklable for worker processes."""

    @property
    def size(self) -> int | None:
        """Number of items, or None if it is not known in advance."""

    def fingerprint(self) -> str:
        """Return a string that changes with the inputs of this shard, without reading images."""

    def items(self) -> Iterator[RawExample | Problem]:
        """Yield the examples in a fixed order, and what could not be read."""


class ListedExample(NamedTuple):
    """An example whose image is a separate file."""

    key: str
    path: Path
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()


class ListedTask(NamedTuple):
    """A shard of listed examples, with the problems found while listing them."""

    examples: tuple[ListedExample, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def size(self) -> int:
        return len(self.examples) + len(self.problems)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.problems).encode())
        for example in self.examples:
            digest.update(repr((example.key, example.captions, example.regions)).encode())
            digest.update(file_state(example.path).encode())
        return digest.hexdigest()

    def items(self) -> Iterator[RawExample | Problem]:
        yield from self.problems
        for key, path, captions, regions in self.examples:
            if is_special(path):
                yield Problem("not a regular file", key, "a FIFO, socket or device")
                continue
            try:
                image = path.read_bytes()
            except (OSError, ValueError) as error:
                yield Problem("missing image", key, getattr(error, "strerror", None) or str(error))
                continue
            yield RawExample(key, image, captions, regions)


def file_state(path: Path) -> str:
    """Return a file's size and modification time, or "missing"."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: a name no file can have
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


def is_special(path: Path) -> bool:
    """Return True for a FIFO, socket or device, from which reading might never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def replace_lone_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD: JSON and file names may hold them, UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tidy(text: str) -> str:
    """Put a text on one line: valid Unicode, with each run of whitespace collapsed to one space."""
    return " ".join(replace_lone_surrogates(text).split())


def is_unsafe_path(path: str) -> bool:
    """Return True if a path in the data would leave the folder it is relative to."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or "\0" in path


def split_evenly(count: int, parts: int) -> list[slice]:
    """Split `range(count)` into `parts` contiguous slices whose lengths differ by at most one."""
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def listed_tasks(
    examples: Sequence[ListedExample], problems: Sequence[Problem], num_shards: int | None
) -> list[ListedTask]:
    """Spread listed examples over shards; the first shard reports the problems of the listing.

    Args:
      examples: all examples, in order.
      problems: what the listing left out.
      num_shards: number of shards; None: one per 2,000 examples.
    """
    count = num_shards or -(-len(examples) // 2000)
    tasks = [ListedTask(tuple(examples[part])) for part in split_evenly(len(examples), count)]
    tasks[0] = tasks[0]._replace(problems=tuple(problems))
    return tasks
