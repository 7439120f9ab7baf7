"""A map over fresh Python processes that never touches the caller's ``__main__``.

``multiprocessing`` either forks, which can hang once JAX runs threads, or imports the caller's
main module again, which fails in a script without a guard and costs each worker JAX's import.

Run as ``python -m timix_jax.data.emoji.workers`` this is the worker: it reads one pickled
``(function, items)`` from its standard input and writes one pickled result an item.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from timix_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Applies a function in several processes.

    Args:
      function: at the top level of a module other than the main one.
      items: arguments; each worker takes every ``workers``-th.
      workers: number of processes; 1 works in this one.

    Yields:
      The results as they come.

    Raises:
      UserError: what the function raised, or that a worker died.
    """
    if workers == 1:
        yield from map(function, items)
        return
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # an interrupt is ours to handle
        )
        for _ in range(workers)
    ]
    results: queue.Queue[Any] = queue.Queue()
    try:
        for index, process in enumerate(processes):
            part = items[index::workers]
            threading.Thread(
                target=_feed, args=(process, function, part, results), daemon=True
            ).start()
        for _ in items:
            result = results.get()
            if isinstance(result, UserError):
                raise result
            yield result
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _feed(
    process: "subprocess.Popen[bytes]",
    function: Callable[[Item], Result],
    items: Sequence[Item],
    results: "queue.Queue[Any]",
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as stdin:
            pickle.dump((function, items), stdin)
        with process.stdout as stdout:
            for _ in items:
                results.put(pickle.load(stdout))
    except (EOFError, OSError, pickle.UnpicklingError):
        code = process.wait()
        results.put(
            UserError(f"a worker process ended with code {code} (negative: killed by that signal)")
        )


def _work() -> None:
    # Results leave on a descriptor of their own, so that no library's print gets between them.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        function, items = pickle.load(sys.stdin.buffer)
        for item in items:
            try:
                result = function(item)
            except UserError as error:
                result = error
            pickle.dump(result, out)
            out.flush()


if __name__ == "__main__":
    _work()
