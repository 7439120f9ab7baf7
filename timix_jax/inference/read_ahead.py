"""Reading ahead in threads while the devices compute.

Not `data.loading.reader_threads`: Grain wants the flags of a command line, which a notebook does not have.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from timix_jax.runtime.machine import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_THREADS = 16


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, threads: int = 0
) -> Iterator[Result]:
    """Yield `function(item)` in order, with up to `ahead` results computed in advance.

    Args:
      function: called in threads; its exception is raised in its turn.
      items: taken one by one in the caller's thread.
      ahead: results that may wait, at least 1.
      threads: their number; 0 for one per core.
    """
    pool = ThreadPoolExecutor(threads or min(available_cores(), _MAX_THREADS))
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
