"""The class of every image of a set whose captions are class names."""

from collections.abc import Iterator, Sequence

import grain

from timix_jax.data.loading.cores import available_cores
from timix_jax.data.loading.evaluation import MOST_THREADS, first_line, read_example
from timix_jax.data.record_schema import Record
from timix_jax.data.sources import Source
from timix_jax.errors import UserError


def class_names(source: Source, examples: Sequence[int]) -> list[str]:
    """The only caption of each of these examples, in their order; images are not decoded.

    Raises:
      UserError: a corrupt example, or one with another number of captions.
    """

    def name(record: Record) -> str:
        if len(record.captions) != 1:
            raise UserError(
                f"{source.name}: {record.key} has {len(record.captions)} captions, where its class is"
                " wanted: prepare the data with one caption an image, or leave the evaluator"
                " 'classification' out"
            )
        return record.captions[0]

    threads = min(max(2, available_cores()), MOST_THREADS)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 * threads)
    read = lambda position: read_example(source, examples[position], name)
    names: Iterator[str] = iter(
        grain.MapDataset.range(len(examples)).map(read).to_iter_dataset(options)
    )
    try:
        return list(names)
    except UserError as error:
        raise type(error)(first_line(error)) from error
