"""How a benchmark that is started as a program ends."""

import sys
from collections.abc import Callable

from timix_jax.errors import UserError
from timix_jax.runtime.log import print_error


def run(main: Callable[[], None]) -> None:
    """Calls `main`; as in `timix_jax.main` a user's mistake is one line and its exit code, not a traceback."""
    try:
        main()
    except UserError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
