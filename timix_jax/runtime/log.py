"""Print and log: all lines of this package, but only warnings of the libraries."""

import contextlib
import logging as python_logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import logging

_PACKAGE = str(Path(__file__).parents[1])
_ASCII = str.maketrans(
    {"τ": "tau", "λ": "lambda", "γ": "gamma", "·": "*", "×": "x", "→": "->", "–": "-"}
)


def show_own_lines() -> None:
    """Set absl's log to INFO but drop INFO lines of libraries (Orbax writes thirty of them per save)."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_wanted)


@contextlib.contextmanager
def without_library_warnings() -> Iterator[None]:
    """Drop what ml_collections warns of within the context: our errors say it in one line."""
    logger = logging.get_absl_logger()
    logger.addFilter(_is_not_of_ml_collections)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_of_ml_collections)


def only_warnings() -> None:
    """Log warnings only, on all processes but the first, which would repeat the same lines."""
    logging.set_verbosity(logging.WARNING)


def print_text(text: str) -> None:
    """Print to standard output, in ASCII if the terminal cannot show Greek; drop the text if the output is closed.

    Training continues without a terminal, since metrics.jsonl and the log remain.
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
        logging.warning("standard output is lost (%s); the run continues", error.strerror)
        # Flushing the remaining buffer would fail again, at the latest when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(text: str, process: int | None = None) -> None:
    """Print the one line that ends a run; `process` names its origin where there are several processes."""
    name = "" if process is None else f" in process {process}"
    # The log may be on the full disk, and the other processes must learn of the error all the same.
    with contextlib.suppress(OSError):
        print(f"error{name}: {text}", file=sys.stderr, flush=True)


def _is_not_of_ml_collections(record: python_logging.LogRecord) -> bool:
    return "ml_collections" not in Path(record.pathname).parts


def _is_wanted(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.INFO or record.pathname.startswith(_PACKAGE)
