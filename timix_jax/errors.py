"""The errors that a user is meant to read, and where in the configuration they belong."""

import contextlib
from collections.abc import Iterator

FAULT_CODE, MISTAKE_CODE = 1, 2


class UserError(ValueError):
    """A problem that the user can mend: one line that names the thing, its value and the mend.

    `main.py` prints the message without a traceback and exits with `exit_code`; in a library call it is an ordinary
    `ValueError`.
    """

    exit_code = MISTAKE_CODE


class RunError(UserError):
    """A fault of a machine, a disk or a process, not of flags and configuration: the same command may well succeed.

    The launchers start a run again after its exit code, and not after that of other UserErrors.
    """

    exit_code = FAULT_CODE


@contextlib.contextmanager
def unwritable(kind: type[UserError], what: object, mend: str) -> Iterator[None]:
    """An OSError within becomes an error of this kind: `what` cannot be written, the cause, and the mend."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what} cannot be written ({error.strerror or error}): {mend}") from error


@contextlib.contextmanager
def located(place: str) -> Iterator[None]:
    """Puts `place` before the messages of UserErrors raised inside, unless they name their field already.

    Constructors know their arguments and not the configuration: `with located("config.augment."): ...` makes
    "crop_min=2: ..." findable.
    """
    try:
        yield
    except UserError as error:
        if str(error).startswith("config."):
            raise
        raise type(error)(f"{place}{error}") from error
