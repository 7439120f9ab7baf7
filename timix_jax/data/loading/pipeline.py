"""Training batches from sources, with Grain; the position in the stream is the step.

The order of the examples and the random augmentations depend only on (seed, position). Resuming is
therefore seeking to the step, and the global batch of a step is the same on any number of
processes: each makes the rows that its devices hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import grain
import numpy as np

from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.data.loading.example_stream import MakeExamples, open_readers, shuffled_examples
from timix_jax.data.loading.examples import (
    BoxesOf,
    ExampleSpec,
    pair_example,
    region_example,
)
from timix_jax.data.loading.loader_processes import LoaderProcesses, MadeByProcesses
from timix_jax.data.loading.process_rows import ProcessRows
from timix_jax.data.loading.train_iterator import TrainIterator
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError

Batch = dict[str, Any]


def make_train_iterator(
    sources: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    batch_size: int,
    image_size: int,
    max_tokens: int,
    tokenizer: Tokenizer,
    seed: int,
    augment: Augment,
    boxes_of: BoxesOf = "",
    more_captions: int = 0,
    image_ids: bool = False,
    region_batch_size: int = 0,
    max_regions: int = 5,
    region_max_tokens: int | None = None,
    own_rows: Callable[[int], Sequence[int] | np.ndarray] = range,
    num_threads: int = 4,
    num_processes: int = 0,
    start_step: int = 0,
) -> TrainIterator:
    """Make the endless stream of training batches.

    Without weights the sources are concatenated: each example comes once per epoch, in an order
    drawn again for every epoch. With weights each source is shuffled and repeated separately, and
    the sources are mixed in the given proportions.

    Args:
      sources: the sources.
      weights: positive shares of the sources, or None.
      batch_size: examples per step, over all processes.
      image_size: side of the square pictures in pixels.
      max_tokens: length of a token row.
      tokenizer: the tokenizer.
      seed: seed of the order and the augmentation.
      augment: the random changes to images.
      boxes_of: adds the boxes of the regions that the chosen caption names, or of all others ("clutter"); "" for none.
      more_captions: further captions per image, K.
      image_ids: adds which example each image is, to be read by the step.
      region_batch_size: annotated images per step, over all processes; 0 = no second stream.
      max_regions: number of rows for boxes.
      region_max_tokens: length of a region's token row, Tr; phrases are short. None = max_tokens.
      own_rows: maps the size of a global batch to the rows that this process makes, ascending; all
        rows by default, or `parallel.mesh.own_rows`.
      num_threads: decoding threads, each working on a whole batch.
      num_processes: processes used instead of these threads; 0 = none. See `loader_processes`.
      start_step: step of the first batch.

    Returns:
      An iterator of NumPy batches, where B and P are this process's share of batch_size and
      region_batch_size: image uint8 (B, S, S, 3), tokens int32 (B, T), example_id int64 (B,), the
      index in the concatenation of the sources; with image ids also image_id int32 (B,); with boxes
      also boxes float32 (B, M, 4) x0, y0, x1, y1 as fractions and box_mask bool (B, M); with further
      captions also captions int32 (B, K, T); with a second stream also regions: image uint8 (P, S, S, 3),
      tokens int32 (P, R, Tr), boxes float32 (P, R, 4), mask bool (P, R).

    Raises:
      UserError: a source is empty, there are fewer examples than a batch needs, a value is out of
        range, or, with processes, a source cannot be pickled.
    """
    _check_sizes(batch_size, region_batch_size, image_size, max_tokens)
    _check_sources(sources, weights)
    # Loader threads already decode in parallel; OpenCV's own threads would only compete.
    cv2.setNumThreads(1)
    corrupt = CorruptExamples()
    spec = ExampleSpec(
        image_size, max_tokens, tokenizer, augment, max_regions, boxes_of, more_captions
    )
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(4)]
    everything = [range(len(source)) for source in sources]
    readers = open_readers(sources, everything, corrupt)
    count = sum(map(len, everything))
    if count < batch_size:
        raise UserError(
            f"{_names(sources)}: {count} examples, fewer than batch_size={batch_size}; "
            f"set it to {count} or less, or give more data"
        )

    def host_batches(dataset: grain.MapDataset, global_size: int) -> grain.MapDataset:
        rows = own_rows(global_size)
        return ProcessRows(dataset, global_size, rows).batch(len(rows), drop_remainder=True)

    stream = shuffled_examples(readers, weights, seeds[0], batch_size)
    stream = stream.random_map(MakeExamples(readers, pair_example, spec), seed=seeds[1])
    batches = host_batches(stream, batch_size)
    if image_ids:
        batches = batches.map(_with_image_ids)
    if region_batch_size:
        annotated = [np.asarray(source.annotated) for source in sources]
        count = sum(map(len, annotated))
        if count < region_batch_size:
            raise UserError(
                f"{_names(sources)}: {count} annotated examples, fewer than "
                f"region_batch_size={region_batch_size}; set it to {count} or less, or give more data with regions"
            )
        readers = open_readers(sources, annotated, corrupt, for_regions=True)
        stream = shuffled_examples(readers, None, seeds[2], region_batch_size)
        spec = replace(spec, max_tokens=region_max_tokens or max_tokens)
        stream = stream.random_map(MakeExamples(readers, region_example, spec), seed=seeds[3])
        regions = host_batches(stream, region_batch_size)
        steps = min(len(batches), len(regions))
        pairs = grain.experimental.ZipMapDataset([batches[:steps], regions[:steps]])
        batches = pairs.map(_join_regions)
    processes = None
    if num_processes:
        processes = LoaderProcesses(batches, corrupt, num_processes)
        batches = MadeByProcesses(batches, processes)
    # Buffered elements are whole batches: one in progress per worker, plus two that are ready.
    workers = num_processes or num_threads
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=workers + 2)
    iterator = TrainIterator(iter(batches.to_iter_dataset(options)), corrupt, processes)
    iterator.seek(start_step)
    return iterator


def _with_image_ids(batch: Batch) -> Batch:
    # Examples are counted in 64 bits, devices count in 32: ids that meet again after 2³¹ examples do no harm.
    return {**batch, "image_id": (batch["example_id"] % 2**31).astype(np.int32)}


def _join_regions(pair: tuple[Batch, Batch]) -> Batch:
    batch, regions = pair
    del regions["example_id"]
    return {**batch, "regions": regions}


def _check_sizes(
    batch_size: int,
    region_batch_size: int,
    image_size: int,
    max_tokens: int,
) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("region_batch_size", region_batch_size, 0),
        ("image_size", image_size, 1),
        ("max_tokens", max_tokens, 3),
    ):
        if value < least:
            raise UserError(f"{name}={value}: give {least} or more")


def _check_sources(sources: Sequence[Source], weights: Sequence[float] | None) -> None:
    if not sources:
        raise UserError("no data source given")
    for source in sources:
        if not len(source):
            raise UserError(f"{source.name}: holds no examples")
    if weights is not None:
        if len(weights) != len(sources):
            raise UserError(f"weights={tuple(weights)}: {len(sources)} sources need one each")
        if any(not weight > 0 for weight in weights):
            raise UserError(f"weights={tuple(weights)}: give positive numbers, or drop the source")


def _names(sources: Sequence[Source]) -> str:
    return ", ".join(source.name for source in sources)
