"""What the log shows: this project's own lines in full, of the libraries only warnings."""

import logging as python_logging
import sys
from pathlib import Path

from absl import logging

_PACKAGE = str(Path(__file__).parent)


def show_own_lines() -> None:
    """Sets absl's log to INFO and leaves out the libraries' own INFO (Orbax writes thirty lines a save)."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_wanted)


def only_warnings() -> None:
    """For all processes but the first: the same lines need not be there many times."""
    logging.set_verbosity(logging.WARNING)


def print_error(text: str, process: int | None = None) -> None:
    """One line that ends the run; ``process`` tells which one it comes from where there are several."""
    name = "" if process is None else f" in process {process}"
    print(f"error{name}: {text}", file=sys.stderr, flush=True)


def _is_wanted(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.INFO or record.pathname.startswith(_PACKAGE)
