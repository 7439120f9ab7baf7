"""Reading the JSON file of a collection."""

import json
from pathlib import Path
from typing import Any

from timix_jax.errors import UserError


def read_json(option: str, file: Path) -> Any:
    """Return the value of a JSON file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

    Args:
      option: the option that names the file, for messages.
      file: the file.

    Raises:
      UserError: the file cannot be read, is not encoded like this, or is not JSON.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{option} {file}: cannot be read: {error.strerror}") from error
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:  # its repr() holds the whole file
        place = f"byte {error.start} of {len(data)}"
        raise UserError(f"{option} {file}: {not_utf8(data[error.start], place)}") from error
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's limits
        raise UserError(f"{option} {file}: not JSON: {error}") from error


def not_utf8(byte: int, place: str) -> str:
    """Say that a byte at this place is not UTF-8, and what to do."""
    encoding = "utf-16" if byte in (0xFE, 0xFF) else "latin1"  # how a byte-order mark starts
    return f"not UTF-8 (0x{byte:02x} in {place}); convert it, for example with iconv -f {encoding} -t utf-8"
