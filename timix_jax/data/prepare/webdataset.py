"""The format `webdataset`: tar files as img2dataset writes them, `NNN.jpg` with `NNN.txt`, `NNN.json`."""

import argparse
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from timix_jax.data.prepare.options import Format, local_pattern
from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.side_keys import SideFile, find_regions
from timix_jax.data.prepare.tar_captions import CaptionRules, read_captions
from timix_jax.data.prepare.tar_reader import tar_members
from timix_jax.data.prepare.tasks import (
    Note,
    Problem,
    RawExample,
    file_state,
    split_evenly,
)
from timix_jax.errors import UserError

# In the order of preference where a sample has several; without the dot, in lower case.
IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp"),
    *("jfif", "jpe", "mpo", "gif", "bmp", "tif", "tiff", "avif", "jp2", "j2k", "jpx"),
    *("ppm", "pgm", "pbm", "pnm", "pfm", "ico", "qoi", "tga", "pcx", "sgi", "dds"),
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MAX_FILES = 1_000_000  # files that braces may name


class TarTask(NamedTuple):
    """A shard made of whole tar files."""

    tars: tuple[Path, ...]
    rules: CaptionRules = CaptionRules()
    regions: Path | None = None  # side file

    @property
    def size(self) -> None:
        return None

    def _files(self) -> tuple[Path, ...]:
        return (*self.tars, self.regions) if self.regions else self.tars

    def states(self) -> tuple[str, ...]:
        return tuple(map(file_state, self._files()))

    def fingerprint(self, states: tuple[str, ...]) -> str:
        # The engine compares the other options.
        named = [(path.name, state) for path, state in zip(self._files(), states, strict=True)]
        return hashlib.sha256(repr((named, self.rules.field)).encode()).hexdigest()

    def items(self, states: tuple[str, ...]) -> Iterator[RawExample | Problem | Note]:
        regions = read_regions(self.regions) if self.regions else None
        for tar in self.tars:
            # Per archive, since many data sets number each tar's samples from 0.
            keys = set[tuple[str, str]]()
            for sample in tar_samples(tar):
                if isinstance(sample, Problem):
                    yield sample
                    continue
                for found in _example(tar, sample, self.rules, regions):
                    if not isinstance(found, RawExample):
                        yield found
                    elif (sample.archive, found.key) in keys:
                        yield Problem("duplicate key", f"{sample.archive}/{found.key}")
                    else:
                        keys.add((sample.archive, found.key))
                        yield found


def webdataset_tasks(
    shards: str, *, rules: CaptionRules, regions: Path | None, num_shards: int | None
) -> list[TarTask]:
    """Find the tar files of a pattern and spread them over the output shards.

    Args:
      shards: a path with `*`, `?`, `{a,b}` and `{0000..0099}`.
      rules: where the captions are.
      regions: side file, by sample key or image name, with the tar's name in front where several fit.
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
    return [TarTask(tuple(tars[part]), rules, regions) for part in split_evenly(len(tars), count)]


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


class Sample(NamedTuple):
    """The members of a tar that share a key, by extension; `archive` as in `TarMember`."""

    archive: str
    key: str
    members: dict[str, bytes]


def tar_samples(tar: Path) -> Iterator[Sample | Problem]:
    """Yield consecutive members that share a key: their path up to the first dot of the file name."""
    sample = Sample("", "", {})
    for item in tar_members(tar):
        if isinstance(item, Problem):
            yield item
            continue
        folder, slash, file = item.name.rpartition("/")
        stem, _, extension = file.partition(".")
        key = folder + slash + stem
        if (item.archive, key) != (sample.archive, sample.key):
            if sample.members:
                yield sample
            sample = Sample(item.archive, key, {})
        if extension.lower() in sample.members:
            yield Problem("duplicate member", f"{item.archive}/{item.name}", skipped=False)
        else:
            sample.members[extension.lower()] = item.data
    if sample.members:
        yield sample


def _example(
    tar: Path, sample: Sample, rules: CaptionRules, regions: SideFile | None
) -> Iterator[RawExample | Problem | Note]:
    archive, key, members = sample
    where = f"{archive}/{key}"
    extension = next((extension for extension in IMAGE_SUFFIXES if extension in members), None)
    if extension is None:
        yield Problem("missing image", where, f"only {', '.join(members)}")
        return
    captions, remarks = read_captions(members, where, rules)
    yield from remarks
    example = RawExample(key, members[extension], captions)
    if regions is not None:
        names = _side_names(tar, sample, extension)
        full = str(tar.with_name(archive) / key)
        boxes, matches = find_regions(regions, full, names)
        example = example._replace(regions=boxes, matches=matches)
    yield example


def _side_names(tar: Path, sample: Sample, extension: str) -> Iterator[str]:
    """Yield what a side file may call a sample: `0`, `0.jpg`, `a.tar/0`, `folder/a.tar/0`, …"""
    for name in (sample.key, f"{sample.key}.{extension}", f"{sample.key}.{extension.upper()}"):
        yield name
        for file in dict.fromkeys((tar, tar.with_name(sample.archive))):
            for start in range(len(file.parts)):
                yield str(PurePosixPath(*file.parts[start:], name))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards",
        type=local_pattern,
        required=True,
        help="quoted: 'DIR/*.tar', 'DIR/{000..009}.tar'",
    )
    parser.add_argument("--caption-field", default="caption", help="of NNN.json; default: caption")
    # Defaults are None: a folder that was started without these options can be continued.
    txt = parser.add_mutually_exclusive_group()
    txt.add_argument(
        "--no-txt", action="store_true", default=None, help="captions only from NNN.json"
    )
    txt.add_argument(
        "--split-lines", action="store_true", default=None, help="one caption per line of NNN.txt"
    )
    parser.add_argument("--encoding", type=_encoding, help="of NNN.txt; default: utf-8")


def _encoding(text: str) -> str:
    try:
        return "a".encode(text).decode(text) and text
    except (LookupError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a text encoding: {error}") from error


def _tasks(args: argparse.Namespace) -> list[TarTask]:
    return webdataset_tasks(
        args.shards,
        rules=CaptionRules(
            args.caption_field, not args.no_txt, bool(args.split_lines), args.encoding or "utf-8"
        ),
        regions=args.regions,
        num_shards=args.num_shards,
    )


FORMAT = Format("tar shards of img2dataset", _add_options, _tasks)
