"""A map over fresh Python processes.

Run as `python -m timix_jax.data.emoji.workers`, this module is the worker: it reads one pickled
`(function, items)` from standard input and writes one pickled result per item.
"""

import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from timix_jax.data.loading import worker_process
from timix_jax.errors import RunError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Apply a function in several processes.

    Args:
      function: a function at the top level of a module other than `__main__`.
      items: the arguments; each worker takes every `workers`-th one.
      workers: number of processes; 1 runs in this one.

    Yields:
      The results in order of completion.

    Raises:
      UserError: the function raised it.
      RunError: a worker died.
    """
    if workers == 1:
        yield from map(function, items)
        return
    processes = [worker_process.start(__spec__.name) for _ in range(workers)]
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
    process: worker_process.Process,
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
        results.put(RunError(f"a worker process {worker_process.describe_exit(process)}"))


def _work() -> None:
    with worker_process.results_stream() as out:
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
