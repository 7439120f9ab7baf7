"""Reading in order with threads that work ahead."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import grain

from timix_jax.errors import UserError
from timix_jax.runtime.machine import available_cores

Result = TypeVar("Result")

# Each thread holds a whole batch: 150 MB at 1,024 images of 224 px.
_MAX_THREADS = 8


def thread_count(requested: int = 0) -> int:
    """Return `requested`, or by default (0) one thread per core of this process within bounds."""
    return requested or min(max(2, available_cores()), _MAX_THREADS)


def map_in_threads(
    count: int, load: Callable[[int], Result], num_threads: int, prefetch: int | None = None
) -> Iterator[Result]:
    """Yield load(0), load(1), … in order, computed ahead by threads.

    Args:
      count: number of calls.
      load: what a thread calls.
      num_threads: number of threads.
      prefetch: results computed ahead; by default two more than there are threads.
    """
    options = grain.ReadOptions(
        num_threads=num_threads,
        prefetch_buffer_size=num_threads + 2 if prefetch is None else prefetch,
    )
    iterator = iter(grain.MapDataset.range(count).map(load).to_iter_dataset(options))
    try:
        yield from iterator
    except UserError as error:
        raise type(error)(first_line(error)) from error
    finally:
        iterator.close()


def first_line(error: Exception) -> str:
    """Return the message without the lines about tracebacks that Grain appends."""
    return str(error).partition("\n")[0]
