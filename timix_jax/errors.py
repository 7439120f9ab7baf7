"""The one error type that a user is meant to read."""


class UserError(ValueError):
    """A problem that the user can mend: one line that names the thing, its value and the mend.

    ``main.py`` prints the message without a traceback and exits with code 2; in a library call it is an ordinary
    ``ValueError``.
    """
