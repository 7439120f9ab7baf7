"""Running shard work in processes, with one progress bar over all of them."""

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

A = TypeVar("A")
R = TypeVar("R")

_POLL_SECONDS = 0.2
_LOG_SECONDS = 10.0  # between two lines of progress where the output is a file

# Set in a worker process by `_start_worker`; inherited state cannot be passed with a task.
_done: Any = None


def _start_worker(done: Any) -> None:
    global _done
    _done = done
    cv2.setNumThreads(1)  # the pool is the parallelism
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Without it, workers of a killed command would go on writing beside its successor.
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _count(examples: int) -> None:
    with _done.get_lock():
        _done.value += examples


def _call(function: Callable[[A, Callable[[int], None]], R], argument: A) -> R:
    return function(argument, _count)


def map_shards(
    function: Callable[[A, Callable[[int], None]], R],
    arguments: Sequence[A],
    *,
    workers: int,
    total: int | None,
    title: str,
    unit: str = "examples",
) -> list[R]:
    """Applies `function(argument, progress)` to every argument, in order of the result.

    Args:
      function: a module-level function; `progress(n)` reports n more units.
      arguments: picklable, one for each shard.
      workers: number of processes; 1 runs in this one.
      total: number of units for the bar, or None.
      title: of the bar.
      unit: what `progress` counts.

    Raises:
      UserError: a worker process died. Whatever the function raises.
    """
    interval = 0.1 if sys.stderr.isatty() else _LOG_SECONDS
    with tqdm(total=total, desc=title, unit=f" {unit}", mininterval=interval) as bar:
        if workers == 1 or len(arguments) <= 1:
            return [function(argument, bar.update) for argument in arguments]
        context = multiprocessing.get_context(
            "spawn"
        )  # ArrayRecord's threads do not survive a fork
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
                    future.result()
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
            f"a worker process of {workers} died (out of memory?); "
            "run the same command again with fewer --workers: it continues"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
