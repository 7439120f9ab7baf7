"""The captions of images as text, which generated ones are compared with."""

from collections.abc import Sequence

from timix_jax.data.loading.evaluation import read_example
from timix_jax.data.loading.reader_threads import map_in_threads, thread_count
from timix_jax.data.sources import Source


def reference_captions(source: Source, examples: Sequence[int]) -> list[list[str]]:
    """Return all captions of each of these examples, in order, without decoding images.

    Raises:
      UserError: an example is corrupt.
    """
    threads = thread_count()
    read = lambda position: read_example(
        source, examples[position], lambda record: list(record.captions)
    )
    return list(map_in_threads(len(examples), read, threads, prefetch=16 * threads))
