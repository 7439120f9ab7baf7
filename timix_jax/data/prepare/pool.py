"""A pool of processes for shard work, with one progress bar for all of them."""

import concurrent.futures
import functools
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import cv2
from tqdm import tqdm

from timix_jax.errors import UserError

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2
_LOG_SECONDS = 10.0  # between progress lines when the output is not a terminal

# Set in a worker process by `_start_worker`: shared counters cannot be passed with a task.
_done: Any = None


def _start_worker(done: Any) -> None:
    global _done
    _done = done
    cv2.setNumThreads(1)  # the pool is the parallelism
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Otherwise workers of a killed command would keep writing alongside its successor.
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _count(examples: int) -> None:
    with _done.get_lock():
        _done.value += examples


def _call(
    function: Callable[[Argument, Callable[[int], None]], Result], argument: Argument
) -> Result:
    return function(argument, _count)


def map_shards(
    function: Callable[[Argument, Callable[[int], None]], Result],
    arguments: Sequence[Argument],
    *,
    workers: int,
    total: int | None,
    title: str,
    unit: str = "examples",
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Apply `function(argument, progress)` to every argument; results are in the same order.

    Args:
      function: a module-level function; `progress(n)` reports n more units.
      arguments: picklable arguments, one per shard.
      workers: number of processes; 1 runs in this one.
      total: number of units for the progress bar, or None.
      title: title of the progress bar.
      unit: what `progress` counts.
      on_result: called with each result as soon as it is there, in any order; an error stops the work.

    Raises:
      UserError: a worker process died. Exceptions of the function are passed on.
    """
    interval = 0.1 if sys.stderr.isatty() else _LOG_SECONDS
    with tqdm(total=total, desc=title, unit=f" {unit}", mininterval=interval) as bar:
        if workers == 1 or len(arguments) <= 1:
            results = []
            for argument in arguments:
                results.append(function(argument, bar.update))
                on_result(results[-1])
            return results
        # "spawn", because ArrayRecord's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        done = context.Value("q", 0)
        with _executor(min(workers, len(arguments)), context, done) as executor:
            futures = [
                executor.submit(functools.partial(_call, function), argument)
                for argument in arguments
            ]
            pending = set(futures)
            while pending:
                finished, pending = concurrent.futures.wait(
                    pending, _POLL_SECONDS, concurrent.futures.FIRST_EXCEPTION
                )
                bar.update(done.value - bar.n)
                for future in finished:
                    on_result(future.result())
            return [future.result() for future in futures]


@contextmanager
def _executor(
    workers: int, context: Any, done: Any
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    executor = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (done,))
    try:
        yield executor
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} worker processes died (out of memory?); "
            "run the same command again with fewer --workers: it continues"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
