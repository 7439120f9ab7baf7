"""Rows of CSV and TSV files, and of files with other separators."""

import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from timix_jax.data.prepare.json_file import not_utf8
from timix_jax.data.prepare.tasks import Problem
from timix_jax.errors import UserError

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}

_Row = tuple[int, list[str] | Problem]  # line number from 1, of the row's last line


class CsvTable:
    """A table of text cells, read once from front to back.

    Args:
      file: a file in UTF-8, with or without a byte-order mark.
      separator: the character between cells; None: a tab if the name ends in `.tsv`, else a comma.
      header: True if the first row names the columns, False to number them from 0.
      quotes: True if double quotes enclose cells, False if they are ordinary characters.

    Raises:
      UserError: the file is missing or empty, or its first row cannot be parsed.
    """

    def __init__(self, file: Path, *, separator: str | None, header: bool, quotes: bool):
        self.file = file
        default = "\t" if file.suffix.lower() == ".tsv" else ","
        self._separator = default if separator is None else separator
        self._first_line = ""
        self._rows = self._read(quotes)
        first = next(self._rows, None)
        if first is None:
            raise UserError(f"--file {file}: is empty")
        line, cells = first
        if isinstance(cells, Problem):
            other = self.other_separator()
            hint = f"; its cells seem to be separated by a {other}: give --separator {other}"
            raise UserError(f"--file {file}: line {line}: {cells.detail}{hint if other else ''}")
        if any("\0" in cell for cell in cells):
            raise UserError(
                f"--file {file}: line {line} has NUL characters, as in UTF-16; convert it, for example with "
                "iconv -f utf-16le -t utf-8"
            )
        self.columns = (
            [cell.strip("\ufeff \t") for cell in cells]
            if header
            else [str(i) for i in range(len(cells))]
        )
        if not header:
            self._rows = itertools.chain([first], self._rows)

    def rows(self, columns: Sequence[int]) -> Iterator[tuple[str, list[str] | Problem]]:
        """Yield the place of each row that is not blank, and its cells of these columns."""
        for line, cells in self._rows:
            place = f"line {line}"
            if isinstance(cells, Problem):
                yield place, cells
            elif len(cells) != len(self.columns):
                detail = f"{len(cells)} cells, expected {len(self.columns)}"
                yield place, Problem("malformed row", place, detail)
            else:
                yield place, [cells[column] for column in columns]

    def other_separator(self) -> str | None:
        """Return the name of a separator that divides the first line as often or more, if there is one."""
        line = self._first_line
        counts = {n: line.count(c) for n, c in SEPARATORS.items() if c != self._separator}
        name = max(counts, key=lambda name: counts[name])
        return name if counts[name] >= max(1, line.count(self._separator)) else None

    def _read(self, quotes: bool) -> Iterator[_Row]:
        csv.field_size_limit(
            min(sys.maxsize, 2**31 - 1)
        )  # alt texts can exceed the default, 128 KiB
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
        try:
            # Bytes that are not UTF-8 become lone surrogates, so that `_parse` can name their line.
            with self.file.open(
                newline="", encoding="utf-8-sig", errors="surrogateescape"
            ) as stream:
                self._first_line = stream.readline()
                lines = itertools.chain([self._first_line], stream)
                reader = csv.reader(lines, delimiter=self._separator, quoting=quoting, strict=True)
                yield from self._parse(reader)
        except OSError as error:
            raise UserError(f"--file {self.file}: cannot be read: {error.strerror}") from error

    def _parse(self, reader: Any) -> Iterator[_Row]:
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # The reader continues with the next line, but rows swallowed by a quote are lost.
                if "end of data" in str(error) or reader.line_num > start:
                    raise self._unclosed_quote(start) from error
                detail = " ".join(str(error).split())
                yield start, Problem("malformed row", f"line {reader.line_num}", detail)
                continue
            # Quoted cells with line breaks are usual in the files that spreadsheets write, not in these.
            if self._separator in "\t|" and any(
                "\n" in cell and self._separator in cell for cell in cells
            ):
                raise self._unclosed_quote(start)
            try:
                "".join(cells).encode()
            except UnicodeEncodeError as error:
                byte = ord(error.object[error.start]) - 0xDC00
                raise UserError(
                    f"--file {self.file}: {not_utf8(byte, f'line {reader.line_num}')}"
                ) from error
            if cells:
                yield reader.line_num, cells

    def _unclosed_quote(self, line: int) -> UserError:
        return UserError(
            f"--file {self.file}: line {line}: a quote opens a cell and swallows the rows after it; close it, or "
            "give --no-quotes if quotes do not enclose cells in this file"
        )
