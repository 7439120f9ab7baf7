"""End all processes of a run when one of them fails, instead of letting the others wait for it forever.

A process that is killed, or whose machine hangs, cannot announce its failure: JAX's heartbeats detect that and end the
others.
"""

import contextlib
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging

from timix_jax.distributed import processes
from timix_jax.errors import RUNTIME_ERROR_CODE, USER_ERROR_CODE, UserError
from timix_jax.runtime import interrupt
from timix_jax.runtime.log import print_error

_KEY = "timix/failed"
_POLL_S = 1.0
_GRACE_S = 8.0  # for processes that find the error themselves, and to finish writing
_GOODBYE_S = 5.0
_EXIT_S = 1.0  # from a process's goodbye to its end
_SILENT_S = 20.0  # of the coordinator, until a warning

_leaving = threading.Event()


@contextlib.contextmanager
def shared_fate() -> Iterator[None]:
    """Run the body on all processes: an error in one ends them all, and none leaves before all are done.

    With several processes this does not return after an error; with a single process the error propagates.
    """
    store = processes.store()
    if store is None:
        yield
        return
    threading.Thread(target=_watch, args=(store,), name="failure watch", daemon=True).start()
    try:
        with interrupt.ended_by(functools.partial(_leave_interrupted, store)):
            yield
            processes.gather("done")
    except KeyboardInterrupt:
        _leave_interrupted(store)
    except BaseException as error:
        announced = _announced(store)
        if announced is not None and not isinstance(error, UserError):
            # The connection broke because the other process left: the cause is there, not here.
            process, code, cause = announced
            _leaving.set()
            print_error(f"process {process} has stopped: {cause}", jax.process_index())
            _exit(store, jax.process_index(), code)
        if not isinstance(error, UserError):
            with contextlib.suppress(OSError):
                traceback.print_exc()
        cause = " ".join(str(error).split())
        if not isinstance(error, UserError):
            cause = f"{type(error).__name__}: {cause[:300]}"
        print_error(cause, jax.process_index())
        code = error.exit_code if isinstance(error, UserError) else RUNTIME_ERROR_CODE
        if announced is not None and announced[1] == USER_ERROR_CODE:
            code = (
                USER_ERROR_CODE  # this error may be its consequence, and a restart would not help
            )
        _leave(store, code, cause)
    finally:
        _leaving.set()


def _leave_interrupted(store: Any) -> None:
    print_error(interrupt.LINE, jax.process_index())
    _leave(store, interrupt.EXIT_CODE, "interrupted")


def _leave(store: Any, code: int, cause: str) -> None:
    """Tell the others and end this process without JAX's own shutdown, which would wait for all of them."""
    _leaving.set()
    me = jax.process_index()
    # Another process may have been faster, or the coordinator may be gone.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        store.key_value_set(_KEY, f"{me} {code} {cause}")
    _exit(store, me, code)


def _watch(store: Any) -> None:
    me = jax.process_index()
    while not _leaving.wait(_POLL_S):
        with _warn_if_silent(me):
            announced = _announced(store)
        if announced is None:
            continue
        if _leaving.wait(_GRACE_S):
            return  # this process has found the same error, or one of its own
        process, code, cause = announced
        print_error(f"process {process} has stopped: {cause}", me)
        _exit(store, me, code)


@contextlib.contextmanager
def _warn_if_silent(me: int) -> Iterator[None]:
    """Log a warning if the coordinator does not answer; JAX's later message names no process."""

    def warn() -> None:
        logging.warning(
            "process 0 has not answered process %d for %.0f s: look at its machine and its log; if it stays silent, JAX"
            " ends this process, and the same command resumes from the last checkpoint",
            *(me, _SILENT_S),
        )

    timer = threading.Timer(_SILENT_S, warn)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _announced(store: Any) -> tuple[int, int, str] | None:
    """Return the first process that announced its failure, its exit code and the cause; None if there is none."""
    try:
        process, code, cause = store.key_value_try_get(_KEY).split(" ", 2)
    except jax.errors.JaxRuntimeError:
        return None  # no such key, or the coordinator is gone and JAX is about to end this process
    return int(process), int(code), cause


def _exit(store: Any, me: int, code: int) -> None:
    """End this process; the first one ends last, because JAX aborts processes that lose their coordinator."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    if me:
        # The coordinator may be leaving itself and never answer.
        goodbye = threading.Thread(target=_say_goodbye, args=(store, me), daemon=True)
        goodbye.start()
        goodbye.join(_GOODBYE_S)
        os._exit(code)
    until = time.monotonic() + _GRACE_S + _GOODBYE_S
    for process in range(1, jax.process_count()):
        left = max(0.001, until - time.monotonic())
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # that process is gone or stuck
            store.blocking_key_value_get(f"{_KEY}/{process}", int(1000 * left))
    time.sleep(_EXIT_S)
    os._exit(code)


def _say_goodbye(store: Any, me: int) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        store.key_value_set(f"{_KEY}/{me}", "", allow_overwrite=True)
