"""The one error type that a user is meant to read, and where in the configuration it belongs."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """A problem that the user can mend: one line that names the thing, its value and the mend.

    ``main.py`` prints the message without a traceback and exits with code 2; in a library call it is an ordinary
    ``ValueError``.
    """


@contextlib.contextmanager
def located(place: str) -> Iterator[None]:
    """Puts ``place`` before the messages of UserErrors raised inside, unless they name their field already.

    Constructors know their arguments and not the configuration: ``with located("config.augment."): ...`` makes
    "crop_min=2: ..." findable.
    """
    try:
        yield
    except UserError as error:
        if str(error).startswith("config."):
            raise
        raise UserError(f"{place}{error}") from error
