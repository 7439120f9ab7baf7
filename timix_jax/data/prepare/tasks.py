"""What a format hands to the writing engine: tasks, examples and named problems."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from timix_jax.data.records.schema import Region


class Example(NamedTuple):
    """An image and its texts as the input has them, not yet checked."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()


class Problem(NamedTuple):
    """Something that was left out. `skipped`: a whole example; otherwise a part of one."""

    reason: str
    key: str
    detail: str = ""
    skipped: bool = True


class ShardTask(Protocol):
    """The inputs of one output shard; picklable, so that a worker process can read them."""

    @property
    def size(self) -> int | None:
        """Number of items where it is known beforehand."""

    def fingerprint(self) -> str:
        """Changes when an input of this shard changes; reads no image."""

    def items(self) -> Iterator[Example | Problem]:
        """The examples in a fixed order, and what could not be read."""


class Listed(NamedTuple):
    """An example whose image is a file of its own."""

    key: str
    path: Path
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()


class ListedTask(NamedTuple):
    """A shard of listed examples, with problems that were found while listing."""

    examples: tuple[Listed, ...]
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

    def items(self) -> Iterator[Example | Problem]:
        yield from self.problems
        for key, path, captions, regions in self.examples:
            try:
                image = path.read_bytes()
            except (OSError, ValueError) as error:
                yield Problem("missing image", key, getattr(error, "strerror", None) or str(error))
                continue
            yield Example(key, image, captions, regions)


def file_state(path: Path) -> str:
    """Size and time of change of a file; "missing" if there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


def well_formed(text: str) -> str:
    """Half a surrogate pair, which JSON and file names may hold and UTF-8 cannot, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tidy(text: str) -> str:
    """A caption on one line: well-formed, and runs of white space are one space."""
    return " ".join(well_formed(text).split())


def unsafe_path(path: str) -> bool:
    """Whether a path named by the data leaves the folder it is relative to."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or "\0" in path


def split_evenly(count: int, parts: int) -> list[slice]:
    """`parts` contiguous slices of `range(count)` whose lengths differ by at most one."""
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def listed_tasks(
    examples: Sequence[Listed], problems: Sequence[Problem], num_shards: int | None
) -> list[ListedTask]:
    """Spreads listed examples over shards; the first shard reports the problems of the listing.

    Args:
      examples: all examples, in order.
      problems: what the listing left out.
      num_shards: number of shards; None: one for each 2,000 examples.
    """
    count = num_shards or -(-len(examples) // 2000)
    tasks = [ListedTask(tuple(examples[part])) for part in split_evenly(len(examples), count)]
    tasks[0] = tasks[0]._replace(problems=tuple(problems))
    return tasks
