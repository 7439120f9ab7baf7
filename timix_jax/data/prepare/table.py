"""The format `table`: CSV and TSV files of image paths and captions."""

import argparse
import csv
import difflib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from timix_jax.data.prepare.options import Format, image_folder, local_path, side_regions
from timix_jax.data.prepare.side_keys import find_regions
from timix_jax.data.prepare.tasks import (
    ListedExample,
    ListedTask,
    Problem,
    is_unsafe_path,
    listed_tasks,
)
from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError


def table_tasks(
    file: Path,
    images: Path,
    *,
    path_column: str,
    caption_columns: Sequence[str],
    header: bool,
    quotes: bool,
    regions: Mapping[str, tuple[Region, ...]],
    num_shards: int | None,
) -> list[ListedTask]:
    """Read a table; rows with the same path are the captions of one image.

    Images are in order of first appearance.

    Args:
      file: comma-separated, or tab-separated if its name ends in `.tsv`.
      images: the folder that the paths are relative to; the path is the example's key.
      path_column: name of the column, or its number from 0 without a header.
      caption_columns: names or numbers of one or more caption columns.
      header: True if the first row names the columns.
      quotes: True if double quotes enclose cells, False if they are ordinary characters.
      regions: regions from a side file, by key.
      num_shards: see `listed_tasks`.

    Raises:
      UserError: the file is missing, empty or not such a table, or lacks a column.
    """
    rows = _rows(file, quotes)
    first = next(rows, None)
    if first is None:
        raise UserError(f"--file {file}: is empty")
    _, cells = first
    if isinstance(cells, Problem):
        raise UserError(f"--file {file}: line 1: {cells.detail}")
    names = cells if header else [str(i) for i in range(len(cells))]
    path_index = _column(file, names, path_column, "--path-column", header)
    caption_indices = [
        _column(file, names, column, "--caption-column", header) for column in caption_columns
    ]
    captions: dict[str, list[str]] = {}
    problems: list[Problem] = []
    if not header:
        rows = itertools.chain([first], rows)
    for number, cells in rows:
        if isinstance(cells, Problem):
            problems.append(cells)
        elif len(cells) != len(names):
            detail = f"{len(cells)} cells, expected {len(names)}"
            problems.append(Problem("malformed row", f"line {number}", detail))
        elif not (path := cells[path_index].strip()):
            problems.append(Problem("malformed row", f"line {number}", "no path"))
        elif is_unsafe_path(path):
            problems.append(Problem("unsafe path", path, f"line {number}"))
        else:
            key = str(PurePosixPath(path))
            captions.setdefault(key, []).extend(cells[i] for i in caption_indices)
    examples = [
        ListedExample(key, images / key, tuple(texts), *find_regions(regions, key, (key,)))
        for key, texts in captions.items()
    ]
    if not examples:
        raise UserError(f"--file {file}: has no usable row ({len(problems)} malformed or unsafe)")
    return listed_tasks(examples, problems, num_shards)


_Row = tuple[int, list[str] | Problem]


def _rows(file: Path, quotes: bool) -> Iterator[_Row]:
    """Yield line number (from 1, of a row's last line) and cells of every row that is not blank."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # alt texts can exceed the default, 128 KiB
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
            yield from _parse_rows(file, reader, delimiter)
    except OSError as error:
        raise UserError(f"--file {file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--file {file}: not a table in UTF-8: {error}") from error


def _parse_rows(file: Path, reader: Any, delimiter: str) -> Iterator[_Row]:
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # The reader continues with the next line, but rows swallowed by a quote are lost.
            if "end of data" in str(error) or reader.line_num > start:
                raise _unclosed_quote(file, start) from error
            detail = " ".join(str(error).split())
            yield start, Problem("malformed row", f"line {reader.line_num}", detail)
            continue
        if delimiter == "\t" and any("\n" in cell and "\t" in cell for cell in cells):
            raise _unclosed_quote(file, start)
        if cells:
            yield reader.line_num, cells


def _unclosed_quote(file: Path, line: int) -> UserError:
    return UserError(
        f"--file {file}: line {line}: a quote opens a cell and swallows the rows after it; close it, or give "
        "--no-quotes if quotes do not enclose cells in this file"
    )


def _column(file: Path, names: Sequence[str], column: str, option: str, header: bool) -> int:
    if list(names).count(column) > 1:
        raise UserError(f"{option} {column}: several columns of {file} have this name; rename them")
    if column in names:
        return list(names).index(column)
    close = difflib.get_close_matches(column, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    what = "columns" if header else "columns are numbered from 0; it has"
    raise UserError(f"{option} {column}: not in {file}; {hint}{what}: {', '.join(names)}"[:300])


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=local_path, required=True, help=".csv, or .tsv with tabs")
    parser.add_argument("--images", type=local_path, required=True, help="folder of the paths")
    parser.add_argument("--path-column", default="path", help="default: path")
    parser.add_argument(
        "--caption-column", action="append", help="may be repeated; default: caption"
    )
    parser.add_argument(
        "--no-header", action="store_true", help="no header row: columns are numbered from 0"
    )
    parser.add_argument(
        "--no-quotes",
        action="store_true",
        help='treat " as an ordinary character that does not enclose cells',
    )


def _tasks(args: argparse.Namespace) -> list[ListedTask]:
    return table_tasks(
        args.file,
        image_folder(args),
        path_column=args.path_column,
        caption_columns=args.caption_column or ["caption"],
        header=not args.no_header,
        quotes=not args.no_quotes,
        regions=side_regions(args),
        num_shards=args.num_shards,
    )


FORMAT = Format("CSV or TSV of path and caption", _add_options, _tasks)
