"""Data that a format hands to the engine: tasks, examples and named problems."""

import errno
import hashlib
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from timix_jax.data.prepare.side_keys import Match, Matches
from timix_jax.data.records.schema import Region

# Reason of a problem that may pass: the shard is written again by the next run.
READ_ERROR = "read error"

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR)
_ADDRESS = re.compile(r"(<[^<>]*) at 0x[0-9a-fA-F]+>")
_SHOWN = 300  # characters of a name or reason in messages
_BREAKING = ("Cc", "Zl", "Zp")  # Unicode categories: control characters, line separators
_INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # Unicode categories: control, format, separators


class RawExample(NamedTuple):
    """An image and its texts as found in the input, unchecked."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    matches: tuple[Match, ...] = ()  # the keys of the side file that fit


class Problem(NamedTuple):
    """Something left out: a whole example if `skipped`, otherwise part of one."""

    reason: str
    key: str
    detail: str = ""
    skipped: bool = True

    def __str__(self) -> str:
        return f"{self.reason} {describe(self)}"


class Note(NamedTuple):
    """Something that may not be as the user expects, although nothing is left out."""

    reason: str
    key: str
    detail: str = ""


def describe(found: Problem | Note) -> str:
    """Return the place and the detail, as the manifest and messages show them."""
    # Libraries put objects into their messages; an address would differ between two runs.
    detail = _ADDRESS.sub(r"\1>", found.detail)
    return f"{shown(found.key)}: {shown(detail)}".removesuffix(": ")


def shown(text: str) -> str:
    """Return a text from the data as a part of one line: without control characters, not too long."""
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}…"
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in _BREAKING else c
        for c in replace_lone_surrogates(text)
    )


class ShardTask(Protocol):
    """The inputs of one output shard, picklable for worker processes."""

    @property
    def size(self) -> int | None:
        """Number of items, or None if it is not known in advance."""

    def states(self) -> tuple[str, ...]:
        """Return the `file_state` of each input, without reading it."""

    def fingerprint(self, states: tuple[str, ...]) -> str:
        """Return a string that changes with the inputs of this shard and with their states."""

    def items(self, states: tuple[str, ...]) -> Iterator[RawExample | Problem | Note]:
        """Yield the examples in a fixed order, and what could not be read.

        Args:
          states: as taken before; an input that was there and has gone is a `READ_ERROR`.
        """


class ListedExample(NamedTuple):
    """An example whose image is a separate file."""

    key: str
    path: Path
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    matches: tuple[Match, ...] = ()  # the keys of the side file that fit


class ListedTask(NamedTuple):
    """A shard of listed examples, with the problems found while listing them."""

    examples: tuple[ListedExample, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def size(self) -> int:
        return len(self.examples) + len(self.problems)

    def states(self) -> tuple[str, ...]:
        return tuple(file_state(example.path) for example in self.examples)

    def fingerprint(self, states: tuple[str, ...]) -> str:
        digest = hashlib.sha256(repr(self.problems).encode())
        for example, state in zip(self.examples, states, strict=True):
            digest.update(repr((example.key, example.captions, example.regions)).encode())
            digest.update(state.encode())
        return digest.hexdigest()

    def items(self, states: tuple[str, ...]) -> Iterator[RawExample | Problem]:
        yield from self.problems
        for example, state in zip(self.examples, states, strict=True):
            key, path, captions, regions, matches = example
            if is_special(path):
                yield Problem("not a regular file", key, "a FIFO, socket or device")
                continue
            try:
                image = path.read_bytes()
            except ValueError as error:  # a name no file can have
                yield Problem("missing image", key, str(error))
            except OSError as error:
                yield _unreadable(key, error, state)
            else:
                yield RawExample(key, image, captions, regions, matches)


def _unreadable(key: str, error: OSError, state: str) -> Problem:
    """Tell a file that is not there from one that cannot be read now."""
    absent = state == "missing" or error.errno == errno.EISDIR
    reason = "missing image" if absent and error.errno in _NOT_THERE else READ_ERROR
    return Problem(reason, key, error.strerror or str(error))


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
    """Put a text on one line: valid Unicode, with each run of whitespace collapsed to one space.

    Byte order marks go. A text without a visible character, such as U+200B or NUL, becomes empty.
    """
    line = " ".join(replace_lone_surrogates(text).replace("\ufeff", "").split())
    return line if any(unicodedata.category(c) not in _INVISIBLE for c in line) else ""


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

    Raises:
      UserError: a key of the side file fits several examples.
    """
    matches = Matches()
    for example in examples:
        matches.add(example.matches)
    count = num_shards or -(-len(examples) // 2000)
    tasks = [ListedTask(tuple(examples[part])) for part in split_evenly(len(examples), count)]
    tasks[0] = tasks[0]._replace(problems=tuple(problems))
    return tasks
