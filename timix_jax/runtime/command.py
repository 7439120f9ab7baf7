"""Command lines over argparse: how they parse, and how they end."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import logging

from timix_jax.errors import UserError
from timix_jax.runtime import interrupt
from timix_jax.runtime.log import print_error


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s, one line each, which name the command for help."""

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing the usage and leaving."""
        raise UserError(f"{message}; see {self.prog} --help")


def run_command(
    run: Callable[[argparse.Namespace], None],
    parser: Parser,
    argv: Sequence[str] | None,
    *,
    stopped: str = "stopped",
) -> int:
    """Run a command and return its exit code: 0, 1 for runtime errors, 2 for problems that the user can fix.

    Args:
      run: the command, given the parsed arguments.
      parser: of its arguments.
      argv: the arguments; None for those of the process.
      stopped: what is printed at Ctrl-C, which ends the process with exit code 130.
    """

    def stop() -> NoReturn:
        print_error(stopped)
        os._exit(interrupt.EXIT_CODE)

    logging.set_verbosity(logging.WARNING)
    try:
        with interrupt.ended_by(stop):
            run(parser.parse_args(argv))
    except UserError as error:
        print_error(str(error))
        return error.exit_code
    return 0
