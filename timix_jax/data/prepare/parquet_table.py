"""Rows of Parquet files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timix_jax.data.prepare.tasks import Problem
from timix_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1000
_BATCH_IMAGES = 32

Cell = str | bytes | list[str] | None


class ParquetTable:
    """A table whose columns have types; pyarrow is imported when the first one is opened.

    Raises:
      UserError: the file cannot be read or is not a Parquet file.
    """

    def __init__(self, file: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.file = file
        try:
            file.stat()  # its message is shorter than pyarrow's
        except OSError as error:
            raise UserError(f"--file {file}: cannot be read: {error.strerror}") from error
        try:
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"--file {file}: not a readable Parquet file: {_one_line(error)}"
            ) from error
        self.columns: list[str] = self._parquet.schema_arrow.names
        metadata = self._parquet.metadata
        self.group_sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def holds_text(self, column: int, lists: bool) -> bool:
        """Return True for a column of strings, or if `lists` of lists of strings."""
        return _is_text(self._type(column)) or (lists and _is_text_list(self._type(column)))

    def text_column(self, name: str) -> int | None:
        """Return the number of the one column of strings with this name, or None."""
        column = self.columns.index(name) if self.columns.count(name) == 1 else None
        return column if column is not None and self.holds_text(column, lists=False) else None

    def holds_images(self, column: int) -> bool:
        """Return True for a column of bytes, or of `{"bytes", "path"}` as Hugging Face writes them."""
        import pyarrow.types as types

        kind = self._type(column)
        if types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and _is_bytes(kind.field(index).type)
        return _is_bytes(kind)

    def describe(self, column: int) -> str:
        """Return the type of a column, for messages."""
        return str(self._type(column))[:60]

    def _type(self, column: int) -> "pa.DataType":
        return self._parquet.schema_arrow.field(column).type

    def rows(
        self, columns: Sequence[int], groups: Sequence[int] | None = None
    ) -> Iterator[tuple[str, list[Cell] | Problem]]:
        """Yield the place of each row, and its cells of these columns, which hold text or images.

        Args:
          columns: numbers of the columns, from 0.
          groups: numbers of the row groups to read, from 0; None: all.
        """
        import pyarrow as pa

        texts = [self.holds_text(column, lists=True) for column in columns]
        for group in range(len(self.group_sizes)) if groups is None else groups:
            row = sum(self.group_sizes[:group]) + 1
            last = row + self.group_sizes[group] - 1
            try:
                for batch in self._parquet.iter_batches(
                    _BATCH_ROWS if all(texts) else _BATCH_IMAGES,
                    row_groups=[group],
                    columns=[self.columns[column] for column in columns],
                ):
                    cells = [_bytes(batch.column(self.columns[column])) for column in columns]
                    for values in zip(*cells, strict=True):
                        yield f"row {row}", _decode(f"row {row}", values, texts)
                        row += 1
            except (OSError, pa.ArrowException) as error:
                if isinstance(error, OSError) and error.errno:
                    raise  # of the disk, not of the data: the same command may succeed later
                rows = f"rows {row} to {last}"
                yield rows, Problem("unreadable rows", rows, _one_line(error))


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_text_list(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_text(kind.value_type)


def _is_bytes(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _bytes(values: "pa.Array") -> list[Any]:
    """Return bytes, lists of bytes and None: a text that is not UTF-8 must not hide the others."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_struct(values.type):
        values = values.flatten()[values.type.get_field_index("bytes")]
    binary = pa.list_(pa.binary()) if _is_text_list(values.type) else pa.binary()
    return values.cast(binary).to_pylist()


def _decode(place: str, values: Sequence[Any], texts: Sequence[bool]) -> list[Cell] | Problem:
    try:
        return [
            _text(value) if is_text else value for value, is_text in zip(values, texts, strict=True)
        ]
    except UnicodeDecodeError:
        return Problem("malformed row", place, "a text is not UTF-8")


def _text(value: bytes | list[bytes | None] | None) -> Cell:
    if isinstance(value, list):
        return [part.decode() for part in value if part is not None]
    return None if value is None else value.decode()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
