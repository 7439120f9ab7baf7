"""The rule that joins the keys of a side file with examples: a key fits one example."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError

SideFile = Mapping[str, tuple[Region, ...]]  # regions by key
Match = tuple[str, str]  # a key of the side file, and the full name of the example that it fits


def normal_key(path: str) -> str:
    """Return a relative path without `./` and doubled slashes, as keys of examples are."""
    return str(PurePosixPath(path))


def find_regions(
    table: SideFile, example: str, names: Iterable[str]
) -> tuple[tuple[Region, ...], tuple[Match, ...]]:
    """Return the regions of an example, and the keys of the side file that fit it.

    Args:
      table: the side file.
      example: full name of the example, which no other has.
      names: what a side file may call the example.
    """
    keys = [name for name in dict.fromkeys(names) if name in table]
    if len(keys) == 1:
        return table[keys[0]], ((keys[0], example),)
    regions = dict.fromkeys(region for key in keys for region in table[key])
    return tuple(regions), tuple((key, example) for key in keys)


class Matches:
    """The example that each key of a side file fits."""

    def __init__(self) -> None:
        self.examples: dict[str, str] = {}

    def add(self, matches: Iterable[Match]) -> None:
        """Add matches. Raises a UserError for a key that fits another example already."""
        for key, example in matches:
            other = self.examples.setdefault(key, example)
            if other != example:
                first, second = _shortened(other, example)
                raise UserError(
                    f"--regions: the key {key!r} fits {first!r} and {second!r}; give the longer name as the key"
                )


def _shortened(*names: str) -> tuple[str, ...]:
    """Return paths without the folders that they share."""
    parts = [PurePosixPath(name).parts for name in names]
    folders = zip(*(path[:-1] for path in parts), strict=False)
    shared = len(list(itertools.takewhile(lambda folder: len(set(folder)) == 1, folders)))
    return tuple(str(PurePosixPath(*path[shared:])) for path in parts)
