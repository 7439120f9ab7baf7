"""What the log shows: this project's own lines in full, of the libraries only warnings."""

import logging as python_logging
from pathlib import Path

from absl import logging

_PACKAGE = str(Path(__file__).parent)


def show_own_lines() -> None:
    """Sets absl's log to INFO and leaves out the libraries' own INFO (Orbax writes thirty lines a save)."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_wanted)


def _is_wanted(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.INFO or record.pathname.startswith(_PACKAGE)
