"""The endless shuffled stream of examples: their order, and the arrays made of each."""

import bisect
from collections.abc import Callable, Sequence

import grain
import numpy as np

from timix_jax.data.loading.corrupt_examples import CorruptExamples
from timix_jax.data.loading.examples import ExampleSpec, Reader
from timix_jax.data.records.schema import Record
from timix_jax.data.sources import Source

MakeExample = Callable[[Record, np.random.Generator, ExampleSpec], dict[str, np.ndarray]]


class MakeExamples:
    """Function from a position in the concatenated readers and a generator to one example's arrays."""

    def __init__(self, readers: Sequence[Reader], make: MakeExample, spec: ExampleSpec):
        self._readers = readers
        self._starts = np.cumsum([0, *(len(reader.indices) for reader in readers)]).tolist()
        self._make = make
        self._spec = spec

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        which = bisect.bisect_right(self._starts, position) - 1
        state = rng.bit_generator.state

        tried = False

        def make(record: Record) -> dict[str, np.ndarray]:
            nonlocal tried
            # Reset the generator, so that a replacement gets the same draws whether or not the
            # corrupt example was tried first.
            if tried:
                rng.bit_generator.state = state
            tried = True
            return self._make(record, rng, self._spec)

        example_id, example = self._readers[which].read(position - self._starts[which], make)
        example["example_id"] = np.array(example_id, np.int64)
        return example


def open_readers(
    sources: Sequence[Source],
    indices: Sequence[Sequence[int] | np.ndarray],
    corrupt: CorruptExamples,
    *,
    for_regions: bool = False,
) -> list[Reader]:
    """Return one reader per source with any index; example ids count across all sources."""
    offsets = np.cumsum([0, *(len(source) for source in sources)]).tolist()
    return [
        Reader(source, chosen, offset, corrupt, for_regions)
        for source, chosen, offset in zip(sources, indices, offsets[:-1], strict=True)
        if len(chosen)
    ]


def shuffled_examples(
    readers: Sequence[Reader], weights: Sequence[float] | None, seed: int, batch_size: int
) -> grain.MapDataset:
    """Return endless positions in the concatenated readers, epoch by epoch or mixed by weight."""
    starts = np.cumsum([0, *(len(reader.indices) for reader in readers)]).tolist()
    if weights is None:
        return grain.MapDataset.range(starts[-1]).shuffle(seed=seed).repeat()
    *seeds, order = map(int, np.random.SeedSequence(seed).generate_state(len(readers) + 1))
    mixed = grain.MapDataset.mix(
        [
            grain.MapDataset.range(start, stop).shuffle(seed=source_seed).repeat()
            for start, stop, source_seed in zip(starts, starts[1:], seeds, strict=False)
        ],
        weights=list(weights),
    )
    # Sources alternate in a fixed pattern, and so do the rows selected by mix.fraction: without this
    # shuffle, one source might always be mixed and another never. Grain adds the window's number to
    # the seed, in 32 bits.
    return grain.experimental.WindowShuffleMapDataset(
        mixed, window_size=batch_size, seed=order % 2**20
    )
