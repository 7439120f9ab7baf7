"""Errors that are addressed to the user, and the configuration fields they belong to."""

import contextlib
from collections.abc import Iterator

RUNTIME_ERROR_CODE, USER_ERROR_CODE = 1, 2


class UserError(ValueError):
    """A problem that the user can fix: one line that names the thing, its value and the fix.

    `main.py` prints the message without a traceback and exits with `exit_code`; for library callers it is an ordinary
    `ValueError`.
    """

    exit_code = USER_ERROR_CODE


class RunError(UserError):
    """A failure of a machine, a disk or a process, not of flags and configuration: the same command may succeed.

    The launchers restart a run after its exit code, but not after that of other UserErrors.
    """

    exit_code = RUNTIME_ERROR_CODE


@contextlib.contextmanager
def reraise_write_errors(kind: type[UserError], what: object, fix: str) -> Iterator[None]:
    """Turn an OSError within the context into an error that names `what` cannot be written, the cause, and the fix."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what} cannot be written ({error.strerror or error}): {fix}") from error


@contextlib.contextmanager
def error_prefix(place: str) -> Iterator[None]:
    """Prefix the messages of UserErrors raised within the context with `place`, unless they already name their field.

    Constructors know their arguments but not the configuration: `with error_prefix("config.augment."): ...` turns
    "crop_min=2: ..." into "config.augment.crop_min=2: ...".
    """
    try:
        yield
    except UserError as error:
        if str(error).startswith("config."):
            raise
        raise type(error)(f"{place}{error}") from error
