"""Exchange small messages between the processes of one run; a single process sends nothing.

Messages go through the key-value store of JAX's coordinator and not over the devices: they have a time limit and need
no compiled program. Call every function but `is_first` from all processes, in the same order.
"""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from timix_jax.errors import USER_ERROR_CODE, RunError, UserError

T = TypeVar("T")

_POLL_S = 5  # Ctrl-C cannot interrupt a blocking read
_REMIND_S = 60
_rounds = itertools.count()


def is_first() -> bool:
    """Return True on the process that writes what is written once."""
    return jax.process_index() == 0


def store() -> Any:
    """Return the key-value store that all processes share; None with a single process."""
    from jax._src import (
        distributed,  # JAX has no public access to it; a single process does not need it
    )

    return distributed.global_state.client if jax.process_count() > 1 else None


def gather(value: Any, *, timeout_s: float = 600) -> list[Any]:
    """Return the values (JSON) of all processes, on each of them.

    Raises:
      RunError: A process has not sent its value after `timeout_s` seconds.
    """
    if jax.process_count() == 1:
        return [value]
    name = f"timix/{next(_rounds)}"
    me = jax.process_index()
    store().key_value_set(f"{name}/{me}", json.dumps(value))
    if me == 0:
        values = [_read(f"{name}/{i}", i, timeout_s) for i in range(jax.process_count())]
        store().key_value_set(f"{name}/all", f"[{','.join(values)}]")
    return json.loads(_read(f"{name}/all", 0, timeout_s + _POLL_S))


def gather_flags(flag: bool, *, timeout_s: float = 600) -> list[bool]:
    """Return the flags of all processes, on each of them."""
    return gather(bool(flag), timeout_s=timeout_s)


def together(compute: Callable[[], T], *, timeout_s: float = 3600) -> T:
    """Return `compute()`; a UserError that it raises on one process is raised on all.

    Raises:
      UserError: that of the first process that has one.
    """
    own: UserError | None = None
    try:
        value = compute()
    except UserError as error:
        own = error
    for found in gather(None if own is None else [str(own), own.exit_code], timeout_s=timeout_s):
        if found is not None:
            text, code = found
            raise own or (UserError if code == USER_ERROR_CODE else RunError)(text)
    return value


def latest(topic: str, value: Any) -> dict[int, Any]:
    """Publish a value (JSON) for a topic and return, without waiting, the newest value of each process.

    The first process gets the values of all processes that have published one; the others get only their own.
    """
    me = jax.process_index()
    if jax.process_count() == 1:
        return {me: value}
    folder = f"timix/latest/{topic}/"
    store().key_value_set(f"{folder}{me}", json.dumps(value), allow_overwrite=True)
    if not is_first():
        return {me: value}
    published = store().key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): json.loads(text) for key, text in published}


def from_first(compute: Callable[[], Any], *, timeout_s: float = 3600) -> Any:
    """Return on all processes what `compute` (JSON) returns on the first one.

    Raises:
      UserError: `compute` raised a UserError on the first process.
      RunError: `compute` raised a RunError or an OSError there, or took longer than `timeout_s` seconds.
    """
    if jax.process_count() == 1:
        return compute()
    key = f"timix/{next(_rounds)}/first"
    answer: dict[str, Any]
    if is_first():
        try:
            answer = {"value": compute()}
        except (UserError, OSError) as error:  # sent, as the others would wait for it
            user_error = isinstance(error, UserError) and error.exit_code == USER_ERROR_CODE
            answer = {"error": str(error), "user_error": user_error}
        text = json.dumps(answer)
        store().key_value_set(key, text)
    else:
        text = _read(key, 0, timeout_s)
    answer = json.loads(text)
    if "error" in answer:
        raise (UserError if answer["user_error"] else RunError)(answer["error"])
    return answer["value"]


def compile_everywhere(function: Any, *arguments: Any) -> None:
    """Compile a jitted function on all processes before any of them calls it; a no-op with a single process.

    The first process may find in its cache what takes the others minutes, and on CPUs a collective waits only 30 s.
    """
    if jax.process_count() > 1:
        function.lower(*arguments).compile()
        gather("compiled", timeout_s=3600)


def on_host(tree: Any) -> Any:
    """Return every array in full, as NumPy, on all processes; devices hold one full array at a time."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda leaf: multihost_utils.process_allgather(leaf, tiled=True), tree)


def _read(key: str, process: int, timeout_s: float) -> str:
    begin = time.monotonic()
    reminded = begin
    while True:
        left = begin + timeout_s - time.monotonic()
        try:
            return store().blocking_key_value_get(key, max(1, int(1000 * min(_POLL_S, left))))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if time.monotonic() - begin >= timeout_s:
            raise RunError(
                f"process {process} did not answer within {timeout_s:g} s: look at its log, stop all processes and"
                " run the same command again to resume"
            )
        if time.monotonic() - reminded >= _REMIND_S:
            reminded = time.monotonic()
            logging.warning("waiting for process %d for %.0f s", process, reminded - begin)
