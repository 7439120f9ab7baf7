"""The choice of a table's columns."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from timix_jax.data.prepare.csv_table import CsvTable
from timix_jax.data.prepare.parquet_table import ParquetTable
from timix_jax.data.prepare.tasks import shown
from timix_jax.errors import UserError

# Names that need no option, in order of preference; capitals do not matter. `filepath` and `title`
# are open_clip's names, `file_name` and `text` Hugging Face's, `image` is Kaggle's.
PATH_COLUMNS = ("path", "filepath", "file_name", "image", "url")
CAPTION_COLUMNS = ("caption", "title", "text")
# Parquet tables may hold the images themselves: `jpg` and so on are img2dataset's names.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
KEY_COLUMN = "key"  # img2dataset's; names the image file


class TableOptions(NamedTuple):
    """How to read a table.

    Attributes:
      path_column: name of the column of paths, or its number from 0 without a header. Tables
        without a column `path` use the first of `PATH_COLUMNS`.
      caption_columns: names or numbers; empty: the first of `CAPTION_COLUMNS`.
      header: True if the first row names the columns.
      quotes: True if double quotes enclose cells, False if they are ordinary characters.
      separator: the character between cells; None: see `CsvTable`.
    """

    path_column: str = "path"
    caption_columns: tuple[str, ...] = ()
    header: bool = True
    quotes: bool = True
    separator: str | None = None


class Columns(NamedTuple):
    """Numbers of columns from 0."""

    image: int
    captions: tuple[int, ...]


def choose_columns(
    file: Path, table: CsvTable | ParquetTable, options: TableOptions, *, paths: bool
) -> Columns:
    """Choose the columns of paths or images and of captions.

    Args:
      file: the table, for messages.
      table: its columns.
      options: what the user asks for.
      paths: True to prefer a column of paths in a Parquet table that also holds images.

    Raises:
      UserError: a column is missing, ambiguous or of another type.
    """
    wanted = options.path_column
    names: tuple[str, ...] = PATH_COLUMNS
    if isinstance(table, ParquetTable) and wanted == PATH_COLUMNS[0]:
        images = tuple(name for name in IMAGE_COLUMNS if _holds_images(table, name))
        names = (*PATH_COLUMNS[:-1], *images, KEY_COLUMN, *PATH_COLUMNS[-1:])
        if images and not paths:
            wanted, names = images[0], images
    image = _find(file, table, wanted, "--path-column", names if wanted == names[0] else ())
    captions = tuple(
        _find(file, table, column, "--caption-column") for column in options.caption_columns
    ) or (_find(file, table, CAPTION_COLUMNS[0], "--caption-column", CAPTION_COLUMNS),)
    if isinstance(table, ParquetTable):
        _check_types(table, Columns(image, captions))
    return Columns(image, captions)


def _position(columns: Sequence[str], name: str) -> int | None:
    lower = [column.lower() for column in columns]
    return lower.index(name) if name in lower else None


def _holds_images(table: ParquetTable, name: str) -> bool:
    column = _position(table.columns, name)
    return column is not None and table.holds_images(column)


def _check_types(table: ParquetTable, columns: Columns) -> None:
    image, captions = columns
    if not table.holds_text(image, lists=False) and not table.holds_images(image):
        raise UserError(
            f"--path-column {table.columns[image]}: holds {table.describe(image)}, neither paths nor images"
        )
    for column in captions:
        if not table.holds_text(column, lists=True):
            raise UserError(
                f"--caption-column {table.columns[column]}: holds {table.describe(column)}, not text"
            )


def _find(
    file: Path,
    table: CsvTable | ParquetTable,
    wanted: str,
    option: str,
    names: Sequence[str] = (),
) -> int:
    """Return the number of the column `wanted`, or of the first of `names` that there is."""
    columns = table.columns
    positions = [columns.index(wanted)] if wanted in columns else []
    positions += [p for p in (_position(columns, name) for name in names) if p is not None]
    if positions:
        found = columns[positions[0]]
        if columns.count(found) > 1:
            raise UserError(
                f"{option} {found}: several columns of {file} have this name; rename them"
            )
        return positions[0]
    other = table.other_separator() if isinstance(table, CsvTable) else None
    close = difflib.get_close_matches(wanted, columns, n=1)
    if other:
        hint = f"its cells seem to be separated by a {other}: give --separator {other}; "
    else:
        hint = f"did you mean {close[0]!r}? " if close else ""
    numbered = columns == [str(i) for i in range(len(columns))]
    what = "columns are numbered from 0; it has" if numbered else "columns"
    have = shown(", ".join(columns))
    raise UserError(f"{option} {wanted}: not in {file}; {hint}{what}: {have}")
