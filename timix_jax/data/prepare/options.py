"""What a format is to the command line, and the types of its options."""

import argparse
import dataclasses
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.tasks import ShardTask
from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError
from timix_jax.runtime.remote import is_remote


@dataclasses.dataclass(frozen=True)
class Format:
    """A subcommand: its options, and their conversion to tasks.

    `__main__` adds the options that all formats share: `--out`, `--name`, `--regions`, `--max-size`, `--num-shards` and
    `--workers`.
    """

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    tasks: Callable[[argparse.Namespace], Sequence[ShardTask]]


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def local_path(text: str) -> Path:
    """Parse a path on this machine."""
    return Path(local_pattern(text))


def local_pattern(text: str) -> str:
    """Parse a path or a pattern of paths on this machine; `~` is the home folder."""
    if is_remote(text):  # Path() would turn it into gs:/…
        raise argparse.ArgumentTypeError(
            f"{text!r} is not local: prepare reads and writes local files; copy the finished folder with gcloud "
            "storage cp -r OUT gs://BUCKET/ and train on records:gs://BUCKET/OUT"
        )
    return os.path.expanduser(text)


def output_folder(text: str) -> Path:
    """Parse the path of a folder that a data source can name and ArrayRecord can open."""
    if bad := unprintable(os.path.abspath(text)):
        raise argparse.ArgumentTypeError(f"{text!r} has {bad}; give a name without it")
    if "?" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} has a '?', where a data source's options start (records:DIR?annotated=0.5); "
            "give a name without one"
        )
    return local_path(text)


def unprintable(text: str) -> str | None:
    """Name the first control character, or byte that is not UTF-8, of a file name."""
    # ArrayRecord cannot open the file (line feed) or not even create it (not UTF-8).
    for character in text:
        if unicodedata.category(character) == "Cc":
            return f"the control character {character!r}"
        if unicodedata.category(character) == "Cs":  # how Python decodes such bytes
            return "a byte that is not UTF-8"
    return None


def image_folder(args: argparse.Namespace) -> Path:
    """Return the folder `--images`. Raises a UserError if it does not exist."""
    folder: Path = args.images
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    return folder


def side_regions(args: argparse.Namespace) -> Mapping[str, tuple[Region, ...]]:
    """Return the regions of the side file `--regions`, by key; empty without one."""
    return read_regions(args.regions) if args.regions else {}
