"""Exit codes and messages of a benchmark run as a program."""

import sys
from collections.abc import Callable

from timix_jax.errors import UserError
from timix_jax.runtime.log import print_error


def run(main: Callable[[], None]) -> None:
    """Call `main`; a user error becomes one line and an exit code instead of a traceback, as in `timix_jax.main`."""
    try:
        main()
    except UserError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
