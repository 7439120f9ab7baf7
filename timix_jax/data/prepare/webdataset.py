"""The format `webdataset`: tar files as img2dataset writes them, `NNN.jpg` with `NNN.txt`, `NNN.json`."""

import argparse
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import NamedTuple

from timix_jax.data.prepare.options import Format, local_pattern
from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.tar_reader import tar_members
from timix_jax.data.prepare.tasks import (
    Problem,
    RawExample,
    file_state,
    split_evenly,
)
from timix_jax.errors import UserError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MAX_FILES = 1_000_000  # files that braces may name


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

    def items(self) -> Iterator[RawExample | Problem]:
        for tar in self.tars:
            keys = set[str]()  # per tar, since many data sets number each tar's samples from 0
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
    """Find the tar files of a pattern and spread them over the output shards.

    Args:
      shards: a path with `*`, `?`, `{a,b}` and `{0000..0099}`.
      caption_field: field of `NNN.json` with a string or a list of strings.
      regions: side file, by sample key or image name.
      num_shards: number of output shards, at most the number of tar files; None: one per tar file.

    Raises:
      UserError: a file named without `*` is missing, nothing matches, braces name too many files, or
        there are too many shards.
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
            f"--num-shards {count}: only {len(tars)} tar files to spread; give at most that many"
        )
    if regions is not None:
        read_regions(regions)  # report a bad file before anything is written
    return [
        TarTask(tuple(tars[part]), caption_field, regions)
        for part in split_evenly(len(tars), count)
    ]


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{000..099}` (leading zeros kept) like a shell.

    Raises:
      UserError: there are more than a million results.
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
    """Yield consecutive members that share a key as (key, {extension: bytes}).

    A member's key is its path up to the first dot of its file name.
    """
    key, members = "", dict[str, bytes]()
    for item in tar_members(tar):
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


def _example(
    tar: Path, key: str, members: dict[str, bytes], caption_field: str, regions: Path | None
) -> Iterator[RawExample | Problem]:
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
    yield RawExample(key, image, unique, found)


def _json_captions(data: bytes, field: str) -> list[str]:
    entry = json.loads(data)
    captions = entry.get(field) if isinstance(entry, dict) else None
    if captions is None:
        return []
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise ValueError(f"{field!r} is neither a string nor a list of strings")
    return captions


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards",
        type=local_pattern,
        required=True,
        help="quoted: 'DIR/*.tar', 'DIR/{000..009}.tar'",
    )
    parser.add_argument("--caption-field", default="caption", help="of NNN.json; default: caption")


def _tasks(args: argparse.Namespace) -> list[TarTask]:
    return webdataset_tasks(
        args.shards,
        caption_field=args.caption_field,
        regions=args.regions,
        num_shards=args.num_shards,
    )


FORMAT = Format("tar shards of img2dataset", _add_options, _tasks)
