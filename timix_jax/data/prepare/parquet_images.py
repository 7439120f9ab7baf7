"""Tasks of Parquet files that hold images, as img2dataset and Hugging Face write them."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from timix_jax.data.prepare.columns import KEY_COLUMN, Columns
from timix_jax.data.prepare.parquet_table import Cell, ParquetTable
from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.side_keys import find_regions
from timix_jax.data.prepare.tasks import Problem, RawExample, file_state, split_evenly
from timix_jax.errors import UserError

_EXAMPLES_PER_SHARD = 2000


class RowGroup(NamedTuple):
    """A part of a Parquet file that is read as a whole."""

    file: Path
    columns: Columns
    number: int
    first_row: int  # of the file, from 1
    num_rows: int


class ParquetTask(NamedTuple):
    """A shard made of whole row groups."""

    groups: tuple[RowGroup, ...]
    regions: Path | None = None  # side file

    @property
    def size(self) -> int:
        return sum(group.num_rows for group in self.groups)

    def states(self) -> tuple[str, ...]:
        files = [group.file for group in self.groups]
        return tuple(map(file_state, [*files, self.regions] if self.regions else files))

    def fingerprint(self, states: tuple[str, ...]) -> str:
        groups = [
            (group.file.name, state, group.columns, group.number)
            for group, state in zip(self.groups, states, strict=False)
        ]
        state = states[-1] if self.regions else None
        return hashlib.sha256(repr((groups, state)).encode()).hexdigest()

    def items(self, states: tuple[str, ...]) -> Iterator[RawExample | Problem]:
        table, keys = None, set[str]()
        regions = read_regions(self.regions) if self.regions else {}
        for group in self.groups:
            if table is None or table.file != group.file:
                table, keys = ParquetTable(group.file), set()
            for item in _examples(table, group):
                if isinstance(item, Problem):
                    yield item
                elif item.key in keys:
                    yield Problem("duplicate key", f"{group.file.name}/{item.key}")
                else:
                    keys.add(item.key)
                    file, key = group.file, item.key
                    names = (key, f"{file.stem}/{key}", f"{file.name}/{key}")
                    found, matches = find_regions(regions, str(file / key), names)
                    yield item._replace(regions=found, matches=matches)


def _examples(table: ParquetTable, group: RowGroup) -> Iterator[RawExample | Problem]:
    """Yield a row group's examples; the key is img2dataset's, or FILE/ROW."""
    image, captions = group.columns
    key = table.text_column(KEY_COLUMN)
    columns = [image, *captions] if key is None else [image, *captions, key]
    for row, (place, cells) in enumerate(table.rows(columns, [group.number]), group.first_row):
        if isinstance(cells, Problem):
            yield cells._replace(key=f"{group.file.name} {cells.key}")
            continue
        name = f"{group.file.stem}/{row}" if key is None else str(cells.pop() or place)
        data, *texts = cells
        if isinstance(data, bytes) and data:
            yield RawExample(name, data, join_captions(texts))
        else:
            yield Problem("missing image", name, f"{group.file.name} {place}: no bytes")


def join_captions(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Join cells of one caption, of several or of none."""
    lists = [cell if isinstance(cell, list) else [str(cell or "")] for cell in cells]
    return tuple(text for texts in lists for text in texts)


def row_groups(table: ParquetTable, columns: Columns) -> list[RowGroup]:
    """List the parts of a table."""
    groups, row = [], 1
    for number, num_rows in enumerate(table.group_sizes):
        groups.append(RowGroup(table.file, columns, number, row, num_rows))
        row += num_rows
    return groups


def parquet_tasks(
    groups: Sequence[RowGroup], *, regions: Path | None, num_shards: int | None
) -> list[ParquetTask]:
    """Spread row groups over shards.

    Args:
      groups: all of them, in order.
      regions: side file, by key.
      num_shards: at most the number of row groups; None: one per 2,000 examples where these allow.

    Raises:
      UserError: there are no rows, too many shards, or the side file cannot be read.
    """
    groups = [group for group in groups if group.num_rows]
    if not groups:
        raise UserError("--file: has no rows")
    count = num_shards or -(-sum(group.num_rows for group in groups) // _EXAMPLES_PER_SHARD)
    if num_shards and num_shards > len(groups):
        raise UserError(
            f"--num-shards {num_shards}: only {len(groups)} row groups to spread; give at most that many"
        )
    if regions is not None:
        read_regions(regions)  # report a bad file before anything is written
    count = min(count, len(groups))
    return [ParquetTask(tuple(groups[part]), regions) for part in split_evenly(len(groups), count)]
