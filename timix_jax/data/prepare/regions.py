"""Region annotations (text and box) that accompany the captions."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from timix_jax.data.prepare.side_keys import normal_key
from timix_jax.data.prepare.tasks import Problem, file_state, tidy
from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError


def parse_regions(entries: Any) -> tuple[Region, ...]:
    """Read `[{"text": str, "box": [x, y, width, height]}, …]`; boxes in pixels of the image.

    Raises:
      ValueError: an entry is malformed.
    """
    if not isinstance(entries, list):
        raise ValueError(f"regions must be a list, got {type(entries).__name__}")
    return tuple(map(_parse_region, entries))


def _parse_region(entry: Any) -> Region:
    if not isinstance(entry, Mapping) or not {"text", "box"} <= entry.keys():
        raise ValueError(f'a region must be {{"text": …, "box": […]}}, got {entry!r}'[:200])
    text, box = entry["text"], entry["box"]
    if not isinstance(text, str):
        raise ValueError(f"region text must be a string, got {text!r}"[:200])
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    ):
        raise ValueError(f"region box must be four numbers x, y, width, height, got {box!r}"[:200])
    try:
        x, y, width, height = map(float, box)
    except OverflowError as error:
        raise ValueError(f"region box {box!r}"[:100] + " is too large") from error
    return Region(text, (x, y, width, height))


def read_regions(path: Path) -> dict[str, tuple[Region, ...]]:
    """Read a side file: JSON lines, or a JSON list, of `{"key" or "file": …, "regions": […]}`.

    Entries with the same key are concatenated. Cached, since every shard of a worker needs it.

    Raises:
      UserError: the file cannot be read, or an entry is malformed.
    """
    return _read_regions(path, file_state(path))


@functools.lru_cache(maxsize=1)
def _read_regions(path: Path, state: str) -> dict[str, tuple[Region, ...]]:
    del state  # part of the cache's key
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--regions {path}: cannot be read: {error}") from error
    regions: dict[str, tuple[Region, ...]] = {}
    for where, entry in _entries(path, text):
        try:
            if not isinstance(entry, dict):
                raise ValueError(f"expected an object, got {type(entry).__name__}")
            key = entry.get("key", entry.get("file"))
            if not isinstance(key, str):
                raise ValueError('has neither "key" nor "file"')
            key = normal_key(key)
            regions[key] = regions.get(key, ()) + parse_regions(entry.get("regions"))
        except ValueError as error:
            raise UserError(f"--regions {path}: {where}: {error}") from error
    return regions


def _entries(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        return [(f"entry {i}", entry) for i, entry in enumerate(_parse(path, text, 1))]
    # Not splitlines(): JSON allows U+2028 and the like inside strings.
    lines = enumerate(text.split("\n"), start=1)
    return [(f"line {i}", _parse(path, line, i)) for i, line in lines if line.strip()]


def _parse(path: Path, text: str, line: int) -> Any:
    """Parse the JSON value `text`, which starts at this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1} column {error.colno}"
        reason = error.msg
    except (ValueError, RecursionError) as error:  # numbers or nesting beyond Python's limits
        where, reason = f"line {line}", str(error)
    raise UserError(
        f'--regions {path}: {where}: {reason}; give JSON lines of {{"key", "regions"}}, or a JSON list of them'
    )


def clean_regions(
    key: str, regions: Iterable[Region], size: tuple[int, int], scale: tuple[float, float]
) -> tuple[tuple[Region, ...], list[Problem]]:
    """Clip boxes to the image, scale them, and drop regions that are empty or outside.

    Args:
      key: key of the example, for the problems.
      regions: boxes in pixels of the input image.
      size: width and height of the input image in pixels.
      scale: factors from the input image to the stored one, along x and y.

    Returns:
      The regions in pixels of the stored image, and the problems of the dropped ones.
    """
    kept: list[Region] = []
    problems: list[Problem] = []
    for region in regions:
        text = tidy(region.text)
        x, y, width, height = region.box
        x0, y0 = max(x, 0.0), max(y, 0.0)
        x1, y1 = min(x + width, size[0]), min(y + height, size[1])
        if not text:
            problems.append(Problem("empty region text", key, str(region.box), skipped=False))
        elif not (x1 > x0 and y1 > y0):  # also true if a coordinate is NaN
            problems.append(Problem("region outside the image", key, str(region.box), False))
        else:
            box = (x0 * scale[0], y0 * scale[1], (x1 - x0) * scale[0], (y1 - y0) * scale[1])
            kept.append(region._replace(text=text, box=box))
    return tuple(kept), problems
