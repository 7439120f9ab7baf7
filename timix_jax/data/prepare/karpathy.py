"""Karpathy-style JSON (COCO, Flickr8k, Flickr30k): all captions in a file, images in a folder."""

import collections
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from timix_jax.data.prepare.regions import parse_regions
from timix_jax.data.prepare.tasks import Listed, ListedTask, Problem, listed_tasks, unsafe_path
from timix_jax.data.record_schema import Region
from timix_jax.errors import UserError


def karpathy_tasks(
    file: Path,
    images: Path,
    *,
    splits: tuple[str, ...],
    regions: Mapping[str, tuple[Region, ...]],
    num_shards: int | None,
) -> list[ListedTask]:
    """Reads ``{"images": [{"filename", "split", "sentences": [{"raw"}], …}]}``.

    The key of an example is its path below ``images``: ``filepath/filename``, or ``filename``.

    Args:
      file: the JSON file.
      images: the image folder.
      splits: the splits to take, such as ``("train", "restval")``.
      regions: of a side file, by key or file name; joined to an entry's own ``"regions"`` list.
      num_shards: see ``listed_tasks``.

    Raises:
      UserError: the file is missing or of another form, or has no example of the splits.
    """
    entries = _read(file)
    found = collections.Counter(str(entry.get("split")) for entry in entries)
    for split in splits:
        if split not in found:
            have = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
            raise UserError(f"--split {split}: not in {file}, which has {have or 'no images'}")
    examples: list[Listed] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        if str(entry.get("split")) not in splits:
            continue
        try:
            listed = _listed(entry, images, regions)
        except (KeyError, TypeError, ValueError) as error:
            name = str(entry.get("filename", f"images[{index}]"))
            problems.append(Problem("malformed entry", name, repr(error)[:200]))
            continue
        if unsafe_path(listed.key):
            problems.append(Problem("unsafe path", listed.key))
            continue
        examples.append(listed)
    if not examples:
        raise UserError(
            f"{file}: none of the {len(problems)} entries of {splits} is usable: {problems[0]}"
        )
    return listed_tasks(examples, problems, num_shards)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_bytes())["images"]
    except OSError as error:
        raise UserError(f"--json {file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'--json {file}: no Karpathy-style {{"images": […]}}: {error!r}') from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f'--json {file}: "images" must be a list of objects')
    return entries


def _listed(
    entry: dict[str, Any], images: Path, regions: Mapping[str, tuple[Region, ...]]
) -> Listed:
    key = str(PurePosixPath(entry.get("filepath", ""), entry["filename"]))
    captions = tuple(sentence["raw"] for sentence in entry["sentences"])
    if not all(isinstance(caption, str) for caption in captions):
        raise TypeError("a caption is no string")
    own = parse_regions(entry.get("regions") or [])
    beside = regions.get(key) or regions.get(entry["filename"], ())
    return Listed(key, images / key, captions, own + beside)
