"""The part of each evaluation batch that one process reads."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from timix_jax.data.loading.reader_threads import map_in_threads

Batch = dict[str, np.ndarray]


class Share(NamedTuple):
    """The parts `own` that one process reads, of the `parts` equal parts of each batch.

    Example i belongs to part i mod `parts`. A batch thus depends on the number of parts, one per
    device, but not on how they are spread over processes.
    """

    parts: int = 1
    own: tuple[int, ...] = (0,)


WHOLE = Share()


def share_batches(
    examples: Sequence[int],
    load: Callable[[Sequence[int]], Batch],
    padding: Batch,
    batch_size: int,
    share: Share,
    num_threads: int,
) -> Iterator[Batch]:
    """Yield the share's rows of each batch; every part is filled from its own examples in order.

    Args:
      examples: the examples of all parts.
      load: reads some examples into any number of rows.
      padding: one row to fill up the last batch with.
      batch_size: rows of the batch of all processes; a multiple of `share.parts`.
      share: the parts to read.
      num_threads: threads over all parts.
    """
    rows = batch_size // share.parts
    threads = max(1, num_threads // len(share.own))

    def stream(part: int) -> Generator[Batch, None, None]:
        mine = examples[part :: share.parts]
        chunks = map_in_threads(
            -(-len(mine) // rows), lambda n: load(mine[n * rows : (n + 1) * rows]), threads
        )
        return _rebatch(chunks, rows, padding)

    empty = {name: np.repeat(row, rows, 0) for name, row in padding.items()}
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(stream(part))) for part in share.own]
        any_rows = False
        for parts in itertools.zip_longest(*streams, fillvalue=empty):
            any_rows = True
            yield _concatenate(*parts)
        if not any_rows:
            yield _concatenate(*[empty] * len(share.own))


def _rebatch(
    chunks: Iterator[Batch], batch_size: int, padding: Batch
) -> Generator[Batch, None, None]:
    """Regroup chunks of any size into batches of `batch_size` rows, padding the last one."""
    pending: Batch | None = None
    for chunk in chunks:
        pending = chunk if pending is None else _concatenate(pending, chunk)
        while pending is not None and len(next(iter(pending.values()))) >= batch_size:
            yield {name: rows[:batch_size] for name, rows in pending.items()}
            pending = {name: rows[batch_size:] for name, rows in pending.items()}
    rest = 0 if pending is None else len(next(iter(pending.values())))
    if pending is not None and rest:
        fill = {
            name: np.repeat(row.astype(pending[name].dtype), batch_size - rest, 0)
            for name, row in padding.items()
        }
        yield _concatenate(pending, fill)


def _concatenate(*batches: Batch) -> Batch:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
