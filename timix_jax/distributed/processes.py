"""What the processes of one run tell one another; with a single process, nothing is sent.

The messages go through the key-value store of JAX's coordinator and not over the devices: they have a time limit, and
need no program compiled. Every function but `is_first` is to be called by all processes, in the same order.
"""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from timix_jax.errors import MISTAKE_CODE, RunError, UserError

_POLL_S = 5  # a blocking read cannot be interrupted by Ctrl-C
_REMIND_S = 60
_rounds = itertools.count()


def is_first() -> bool:
    """True on the process that writes what is written once."""
    return jax.process_index() == 0


def store() -> Any:
    """The key-value store that all processes share; None with a single process."""
    from jax._src import distributed  # JAX has no public way to it; one process does without

    return distributed.global_state.client if jax.process_count() > 1 else None


def gather(value: Any, *, timeout_s: float = 600) -> list[Any]:
    """The value (JSON) of each process, on all of them.

    Raises:
      RunError: a process has not given its value after `timeout_s` seconds.
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
    """The flag of each process, on all of them."""
    return gather(bool(flag), timeout_s=timeout_s)


def latest(topic: str, value: Any) -> dict[int, Any]:
    """Process → the value (JSON) that it gave last for this topic; on the first process those of all, without waiting.

    On the others, and with a single process, the own one only.
    """
    me = jax.process_index()
    if jax.process_count() == 1:
        return {me: value}
    folder = f"timix/latest/{topic}/"
    store().key_value_set(f"{folder}{me}", json.dumps(value), allow_overwrite=True)
    if not is_first():
        return {me: value}
    told = store().key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): json.loads(text) for key, text in told}


def from_first(compute: Callable[[], Any], *, timeout_s: float = 3600) -> Any:
    """What `compute` (JSON) gives on the first process, on all of them.

    Raises:
      UserError: `compute` raised one on the first process.
      RunError: `compute` raised one, or an OSError, there; or took longer than `timeout_s` seconds.
    """
    if jax.process_count() == 1:
        return compute()
    key = f"timix/{next(_rounds)}/first"
    answer: dict[str, Any]
    if is_first():
        try:
            answer = {"value": compute()}
        except (UserError, OSError) as error:  # sent, or the others would wait for it
            mistake = isinstance(error, UserError) and error.exit_code == MISTAKE_CODE
            answer = {"error": str(error), "mistake": mistake}
        text = json.dumps(answer)
        store().key_value_set(key, text)
    else:
        text = _read(key, 0, timeout_s)
    answer = json.loads(text)
    if "error" in answer:
        raise (UserError if answer["mistake"] else RunError)(answer["error"])
    return answer["value"]


def compile_everywhere(function: Any, *arguments: Any) -> None:
    """Compiles a jitted function on all processes before any of them calls it; nothing with a single process.

    The first one may find in its cache what takes the others minutes, and on CPUs a collective waits for 30 s only.
    """
    if jax.process_count() > 1:
        function.lower(*arguments).compile()
        gather("compiled", timeout_s=3600)


def on_host(tree: Any) -> Any:
    """Every array whole, as NumPy, on all processes; the devices hold one whole array at a time."""
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
                f"process {process} did not answer within {timeout_s:g} s: look into its log, stop all processes and"
                " run the same command again to resume"
            )
        if time.monotonic() - reminded >= _REMIND_S:
            reminded = time.monotonic()
            logging.warning("waiting for process %d since %.0f s", process, reminded - begin)
