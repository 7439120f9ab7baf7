"""The class of each image in a set whose captions are class names."""

from collections.abc import Sequence

from timix_jax.data.loading.evaluation import read_example
from timix_jax.data.loading.reader_threads import map_in_threads, thread_count
from timix_jax.data.records.schema import Record
from timix_jax.data.sources import Source
from timix_jax.errors import UserError


def class_names(source: Source, examples: Sequence[int]) -> list[str]:
    """Return the only caption of each of these examples, in order, without decoding images.

    Raises:
      UserError: an example is corrupt or does not have exactly one caption.
    """

    def name(record: Record) -> str:
        if len(record.captions) != 1:
            raise UserError(
                f"{source.name}: {record.key} has {len(record.captions)} captions where one class name is"
                " expected: prepare the data with one caption per image, or drop the evaluator"
                " 'classification'"
            )
        return record.captions[0]

    threads = thread_count()
    read = lambda position: read_example(source, examples[position], name)
    return list(map_in_threads(len(examples), read, threads, prefetch=16 * threads))
