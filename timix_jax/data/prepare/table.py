"""The format `table`: CSV, TSV and Parquet files of captions and of images or their paths."""

import argparse
import glob
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from timix_jax.data.prepare.columns import (
    CAPTION_COLUMNS,
    KEY_COLUMN,
    PATH_COLUMNS,
    Columns,
    TableOptions,
    choose_columns,
)
from timix_jax.data.prepare.csv_table import SEPARATORS, CsvTable
from timix_jax.data.prepare.image_paths import key_below
from timix_jax.data.prepare.options import Format, image_folder, local_path
from timix_jax.data.prepare.parquet_images import RowGroup, join_captions, parquet_tasks, row_groups
from timix_jax.data.prepare.parquet_table import ParquetTable
from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.side_keys import find_regions
from timix_jax.data.prepare.tasks import ListedExample, Problem, ShardTask, listed_tasks
from timix_jax.errors import UserError
from timix_jax.runtime.remote import is_remote

_PARQUET = (".parquet", ".parq", ".pq")


def table_tasks(
    file: Path,
    images: Path | None,
    options: TableOptions,
    *,
    regions: Path | None,
    num_shards: int | None,
) -> Sequence[ShardTask]:
    """Read tables; rows with the same path are the captions of one image.

    Images are in order of first appearance.

    Args:
      file: a Parquet file if its name says so, else a text file of separated cells; or a
        pattern of such files with `*`, or a folder of Parquet files.
      images: the folder that the paths are relative to; the path is the example's key. None: the
        tables hold the images.
      options: how to read the tables.
      regions: side file, by key.
      num_shards: see `listed_tasks` and `parquet_tasks`.

    Raises:
      UserError: a file is missing, empty or not such a table, lacks a column or a usable row.
    """
    groups: list[RowGroup] = []
    listing: _Listing | None = None
    files = _find_files(file)
    for part in files:
        table = _open(part, options)
        columns = choose_columns(part, table, options, paths=images is not None)
        if part == files[0]:
            names = [table.columns[i] for i in (columns.image, *columns.captions)]
            logging.info("%s: image column %s; captions: %s", part, names[0], ", ".join(names[1:]))
        if isinstance(table, ParquetTable) and table.holds_images(columns.image):
            groups += row_groups(table, columns)
        elif images is None:
            raise UserError(
                f"--images: give the folder of the paths in column {table.columns[columns.image]!r} of {part}"
            )
        else:
            listing = listing or _Listing(images)
            listing.add(part, table, columns, place=f"{part.name} " if len(files) > 1 else "")
    if listing is None:
        return parquet_tasks(groups, regions=regions, num_shards=num_shards)
    if groups:
        raise UserError(
            f"--file {file}: {groups[0].file} holds images, others paths; prepare them separately"
        )
    side = read_regions(regions) if regions else {}
    examples = [
        ListedExample(key, listing.images / key, tuple(texts), *find_regions(side, key, (key,)))
        for key, texts in listing.captions.items()
    ]
    if not examples:
        raise UserError(f"--file {file}: {listing.no_usable_row()}")
    return listed_tasks(examples, listing.problems, num_shards)


def _find_files(file: Path) -> list[Path]:
    if file.is_dir():  # Spark writes a table as a folder
        files = sorted(file.glob("*.parquet"))
    elif file.exists() or not glob.has_magic(str(file)):
        return [file]
    else:
        files = sorted(map(Path, glob.glob(str(file))))
    if not files:
        raise UserError(
            f"--file {file}: {'holds no .parquet' if file.is_dir() else 'no such'} file"
        )
    return files


def _open(file: Path, options: TableOptions) -> CsvTable | ParquetTable:
    if file.suffix.lower() not in _PARQUET:
        return CsvTable(
            file, separator=options.separator, header=options.header, quotes=options.quotes
        )
    if options.separator is not None or not options.header or not options.quotes:
        raise UserError(
            f"--file {file}: --separator, --no-header and --no-quotes are for text, this is Parquet"
        )
    return ParquetTable(file)


class _Listing:
    """The captions of each image file, by its key, and what is left out."""

    def __init__(self, images: Path):
        self.images = images
        self.captions: dict[str, list[str]] = {}
        self.problems: list[Problem] = []
        self._key_below = key_below(images)

    def add(self, file: Path, table: CsvTable | ParquetTable, columns: Columns, place: str) -> None:
        """Add the rows of a table; `place` precedes the numbers of its rows in problems."""
        by_key = (
            isinstance(table, ParquetTable) and table.columns[columns.image].lower() == KEY_COLUMN
        )
        if by_key and file.with_suffix(".tar").exists() and not (self.images / file.stem).exists():
            raise UserError(
                f"--file {file}: its images are in {file.with_suffix('.tar')}; use the format webdataset"
            )
        for where, cells in table.rows([columns.image, *columns.captions]):
            if isinstance(cells, Problem):
                self.problems.append(cells._replace(key=place + cells.key))
                continue
            path = str(cells[0] or "").strip()
            if by_key and path:
                path = self._img2dataset_path(file.stem, path)
            key = self._key_below(path)
            if not path:
                self.problems.append(Problem("malformed row", place + where, "no path"))
            elif is_remote(path):
                detail = f"{place}{where}; download it first, for example with img2dataset"
                self.problems.append(Problem("URL instead of a path", path, detail))
            elif key is None:
                self.problems.append(Problem("unsafe path", path, place + where))
            else:
                self.captions.setdefault(key, []).extend(join_captions(cells[1:]))

    def _img2dataset_path(self, shard: str, key: str) -> str:
        """Return where img2dataset's format `files` writes an image: `00000/000000012.jpg`."""
        paths = [f"{shard}/{key}.{extension}" for extension in ("jpg", "png", "webp")]
        return next((path for path in [*paths, key] if (self.images / path).exists()), paths[0])

    def no_usable_row(self) -> str:
        """Say why there is no example."""
        if not self.problems:
            return "has no rows"
        return f"none of its {len(self.problems)} rows is usable; the first: {self.problems[0]}"


def _separator(text: str) -> str:
    separator = SEPARATORS.get(text, "\t" if text == "\\t" else text)
    if len(separator) != 1 or separator in '"\r\n\0':
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one character, nor one of {', '.join(SEPARATORS)}"
        )
    return separator


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        type=local_path,
        required=True,
        help=".csv, .tsv or .parquet; a quoted pattern with * for several",
    )
    parser.add_argument(
        "--images",
        type=local_path,
        help="folder of the paths; not needed if the table holds images",
    )
    parser.add_argument(
        "--path-column",
        default=PATH_COLUMNS[0],
        help=f"default: the first of {', '.join(PATH_COLUMNS)}",
    )
    parser.add_argument(
        "--caption-column",
        action="append",
        help=f"may be repeated; default: the first of {', '.join(CAPTION_COLUMNS)}",
    )
    parser.add_argument(
        "--separator",
        type=_separator,
        help=f"between cells: {', '.join(SEPARATORS)} or a character; default: comma, tab in .tsv",
    )
    parser.add_argument(
        "--no-header", action="store_true", help="no header row: columns are numbered from 0"
    )
    parser.add_argument(
        "--no-quotes",
        action="store_true",
        help='treat " as an ordinary character that does not enclose cells',
    )


def _tasks(args: argparse.Namespace) -> Sequence[ShardTask]:
    options = TableOptions(
        path_column=args.path_column,
        caption_columns=tuple(args.caption_column or ()),
        header=not args.no_header,
        quotes=not args.no_quotes,
        separator=args.separator,
    )
    return table_tasks(
        args.file,
        None if args.images is None else image_folder(args),
        options,
        regions=args.regions,
        num_shards=args.num_shards,
    )


FORMAT = Format("CSV, TSV or Parquet tables of captions and paths or images", _add_options, _tasks)
