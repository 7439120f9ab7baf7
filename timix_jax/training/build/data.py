"""`config.data`, `config.augment` and `config.regions`: sources, tokenizer and input pipeline of a training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.loader_processes import default_process_count
from timix_jax.data.loading.pipeline import make_train_iterator
from timix_jax.data.loading.train_iterator import TrainIterator
from timix_jax.data.records.schema import CorruptExample
from timix_jax.data.sources import Source, open_source
from timix_jax.data.tokenizers import TRAINED, Tokenizer, load_tokenizer, train_tokenizer
from timix_jax.distributed import processes
from timix_jax.errors import UserError, error_prefix
from timix_jax.parallel.mesh import own_rows

if TYPE_CHECKING:
    from timix_jax.training.build.settings import Settings

# Each thread reads a part of this many examples at a time; with remote data it mostly waits for a server.
_READERS, _PART = 64, 16
_COMPARED = 64  # examples per source, in which captions must differ
_TRAIN_S = 24 * 3600  # the first process may have to copy its data while the others wait
TOKENIZER_EXAMPLES = 200_000  # per source; more captions would not improve the vocabulary


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """`config.data`; `processes` is -1 for one per core."""

    train: tuple[str, ...]
    weights: tuple[float, ...]
    threads: int
    processes: int
    tokenizer: str
    vocab_size: int

    @classmethod
    def read(cls, config: ConfigDict) -> DataSettings:
        """Read the group."""
        return cls(**config.data)

    @property
    def loader_processes(self) -> int:
        """Processes that make batches; 0 for threads."""
        return default_process_count() if self.processes < 0 else self.processes


@dataclasses.dataclass(frozen=True)
class RegionSettings:
    """`config.regions`: the annotated images of a step; `max_tokens` is 0 for as many as captions have."""

    batch_size: int
    max_regions: int
    max_tokens: int

    @classmethod
    def read(cls, config: ConfigDict) -> RegionSettings:
        """Read the group."""
        return cls(**config.regions)


def read_augment(config: ConfigDict) -> Augment:
    """Build the random changes to training images of `config.augment`."""
    with error_prefix("config.augment."):
        return Augment(**config.augment)


def open_training_sources(settings: Settings) -> tuple[Source, ...]:
    """Open the sources of `config.data.train`."""
    specs = settings.data.train
    if not specs:
        raise UserError(
            "config.data.train=() names no data; give --config.data.train=\"('records:DIR',)\" "
            "(python -m timix_jax.data.prepare makes DIR) or \"('tfds:NAME',)\""
        )
    with error_prefix("config.data.train: "):
        sources = tuple(open_source(spec) for spec in specs)
    for spec, source in zip(specs, sources, strict=True):
        if len(source) == 0:
            raise UserError(f"config.data.train: {spec!r} is empty")
    if settings.uses_regions and not any(len(source.annotated) for source in sources):
        field = f"config.loss.{settings.regions_reader}.weight"
        without = f"{field}=0"
        if settings.regions_reader == "pta":
            without += " and another mix.score"
        raise UserError(
            f"{field} is above 0, but no example of config.data.train has regions; prepare the data with regions, or"
            f" set {without}"
        )
    return sources


def check_captions_differ(sources: Sequence[Source]) -> None:
    """Raise a UserError if no source has two different captions among its first examples, as matching needs them."""
    found: set[str] = set()
    for source in sources:
        captions, _ = _captions_of(source, range(min(len(source), _COMPARED)))
        found.update(captions)
        if len(found) > 1:
            return
    raise UserError(
        f"config.loss.itm needs wrong captions, but the first {_COMPARED} examples of each source of config.data.train"
        f" all say {next(iter(found), '')!r}; set config.loss.itm.weight=0, or give other data"
    )


def open_train_iterator(
    settings: Settings,
    sources: tuple[Source, ...],
    tokenizer: Tokenizer,
    mesh: Mesh,
    *,
    start_step: int,
    num_processes: int,
) -> TrainIterator:
    """Open the input pipeline; its element s is the batch of step s.

    Args:
      settings: everything else that it is made of.
      sources, tokenizer: those of the training.
      mesh: decides which rows of a batch this process makes.
      start_step: step of the first batch.
      num_processes: processes that make batches; 0 for threads of this one.
    """
    data, regions, model = settings.data, settings.regions, settings.model
    with error_prefix("config.data, config.train: "):
        return make_train_iterator(
            sources,
            data.weights or None,
            batch_size=settings.train.batch_size,
            image_size=model.image.size,
            max_tokens=model.text.max_tokens,
            tokenizer=tokenizer,
            seed=settings.seed,
            augment=settings.augment,
            boxes_of=settings.mix.boxes_of,
            more_captions=settings.more_captions,
            image_ids=settings.uses_image_ids,
            region_batch_size=regions.batch_size if settings.uses_regions else 0,
            max_regions=regions.max_regions,
            region_max_tokens=regions.max_tokens or None,
            own_rows=functools.partial(own_rows, mesh),
            num_threads=data.threads,
            num_processes=num_processes,
            start_step=start_step,
        )


def build_tokenizer(data: DataSettings, sources: tuple[Source, ...]) -> Tokenizer:
    """Train `wordpiece` or `bpe` on the captions of the sources, or load a file."""
    kind = data.tokenizer
    if kind not in TRAINED:
        with error_prefix(f"config.data.tokenizer={kind!r}: "):
            return load_tokenizer(kind)

    def train() -> str:
        captions = _captions(sources)
        with error_prefix("config.data."):
            return train_tokenizer(captions, kind=kind, vocab_size=data.vocab_size).to_json()

    return Tokenizer.from_json(processes.from_first(train, timeout_s=_TRAIN_S))


def _captions(sources: tuple[Source, ...]) -> list[str]:
    """Read the captions of each source, or of evenly spaced examples if it has many."""
    captions: list[str] = []
    unreadable: CorruptExample | None = None
    with ThreadPoolExecutor(_READERS) as pool:
        for source in sources:
            chosen = range(0, len(source), max(1, len(source) // TOKENIZER_EXAMPLES))
            parts = [chosen[start : start + _PART] for start in range(0, len(chosen), _PART)]
            for found, error in pool.map(functools.partial(_captions_of, source), parts):
                captions += found
                unreadable = error or unreadable
    if not any(caption.strip() for caption in captions):
        reason = (
            f"no example can be read, such as {unreadable}"
            if unreadable
            else "no caption has a word"
        )
        raise UserError(f"config.data.train: {reason}; prepare the data again")
    return captions


def _captions_of(source: Source, indices: Sequence[int]) -> tuple[list[str], CorruptExample | None]:
    """Return the captions of these examples, and the last example that could not be read."""
    captions: list[str] = []
    unreadable = None
    for index in indices:
        try:
            captions += source[index].captions
        except CorruptExample as error:
            unreadable = error  # the pipeline counts and names it when its turn comes
    return captions, unreadable
