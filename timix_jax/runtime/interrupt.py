"""Ctrl-C while there is nothing to save: one line and exit code 130, wherever the program is.

A KeyboardInterrupt would show a traceback out of the imports, and vanish where a library or the interpreter ignores
exceptions, as in JAX's callback of the garbage collector. This module imports only the standard library, so that it can
be called before everything else is imported.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = 130
LINE = "interrupted; the same command resumes from the newest checkpoint"

_ends: list[Callable[[], None]] = []
_once = threading.Lock()


def end_at_ctrl_c() -> None:
    """End the process at SIGINT until another handler is set, also in the middle of a long call of C++."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # nohup and background jobs ignore SIGINT
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.signal(signal.SIGINT, _end)
    # Python runs its handlers between two bytecodes only; the wake-up pipe is written to at once.
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(readable,), name="ctrl-c", daemon=True).start()


@contextlib.contextmanager
def ended_by(end: Callable[[], None]) -> Iterator[None]:
    """Let `end` end the process within the context; it does not return."""
    _ends.append(end)
    try:
        yield
    finally:
        _ends.pop()


def _watch(readable: int) -> None:
    while number := os.read(readable, 1):
        if number[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is _end:
            _end(signal.SIGINT, None)


def _end(*_: Any) -> None:
    if not _once.acquire(blocking=False):
        return
    if _ends:
        _ends[-1]()
    with contextlib.suppress(OSError):
        os.write(2, f"error: {LINE}\n".encode())
    os._exit(EXIT_CODE)
