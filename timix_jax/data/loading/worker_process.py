"""A fresh Python process that never imports the caller's `__main__`.

`multiprocessing` either forks, which can hang once JAX has started threads, or imports the caller's
main module again, which fails in scripts without a guard and makes every worker import JAX.
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
    """Start `python -m module` with this process's import path and pipes to its stdin and stdout."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # interrupts are handled by the caller
    )


def ignore_termination_signals() -> None:
    """Ignore, in a worker, signals sent to a whole service: the caller may still need batches.

    The worker ends when its input does, or by SIGKILL.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def results_stream() -> Iterator[BinaryIO]:
    """Yield a worker's stream for results; everything printed to stdout goes to stderr instead."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        yield out


def describe_exit(process: Process) -> str:
    """Wait for a process that has closed its output, and describe how it ended."""
    return f"ended with code {process.wait()} (negative: killed by that signal)"
