"""A fresh Python process that never touches the caller's `__main__`.

`multiprocessing` either forks, which can hang once JAX runs threads, or imports the caller's
main module again, which fails in a script without a guard and costs each worker JAX's import.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import BinaryIO

Process = subprocess.Popen[bytes]


def start(module: str) -> Process:
    """Starts `python -m module` with this process's import path; it reads stdin and writes stdout."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # an interrupt is the caller's to handle
    )


def leave_signals_to_the_caller() -> None:
    """In the worker: what stops a whole service or machine (SIGTERM) is for the caller, which may need batches still.

    It ends with its input, or by SIGKILL.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def results_stream() -> Iterator[BinaryIO]:
    """In the worker: where results go. No library's print gets between them: those go to stderr."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        yield out


def describe_end(process: Process) -> str:
    """Waits for a process that has closed its output, and says how it ended."""
    return f"ended with code {process.wait()} (negative: killed by that signal)"
