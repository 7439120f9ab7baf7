"""What the log shows: this project's own lines in full, of the libraries only warnings."""

import contextlib
import logging as python_logging
import os
import sys
from pathlib import Path

from absl import logging

_PACKAGE = str(Path(__file__).parent)
_ASCII = str.maketrans(
    {"τ": "tau", "λ": "lambda", "γ": "gamma", "·": "*", "×": "x", "→": "->", "–": "-"}
)


def show_own_lines() -> None:
    """Sets absl's log to INFO and leaves out the libraries' own INFO (Orbax writes thirty lines a save)."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_wanted)


def only_warnings() -> None:
    """For all processes but the first: the same lines need not be there many times."""
    logging.set_verbosity(logging.WARNING)


def print_text(text: str) -> None:
    """To standard output, in ASCII where the terminal cannot show Greek; nothing more once nobody reads it.

    A training goes on without its screen: metrics.jsonl and the log are there.
    """
    if sys.stdout is None:
        return
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    try:
        print(text, flush=True)
    except OSError as error:
        logging.warning("standard output is lost (%s); the run goes on", error.strerror)
        # What is left in its buffer would fail again, at the latest when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(text: str, process: int | None = None) -> None:
    """One line that ends the run; `process` tells which one it comes from where there are several."""
    name = "" if process is None else f" in process {process}"
    # The log may lie on the disk that is full; the other processes must hear of it all the same.
    with contextlib.suppress(OSError):
        print(f"error{name}: {text}", file=sys.stderr, flush=True)


def _is_wanted(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.INFO or record.pathname.startswith(_PACKAGE)
