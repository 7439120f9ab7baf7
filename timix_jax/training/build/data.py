"""`config.data` as arguments: the training sources and the tokenizer."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ml_collections import ConfigDict

from timix_jax.data.records.schema import CorruptExample
from timix_jax.data.sources import Source, open_source
from timix_jax.data.tokenizers import TRAINED, Tokenizer, load_tokenizer, train_tokenizer
from timix_jax.distributed import processes
from timix_jax.errors import UserError, error_prefix

# Threads, each with so many examples at a time: it waits for a server where the data are remote.
_READERS, _PART = 64, 16
_TRAIN_S = 24 * 3600  # the others may have to wait for the first process to copy its data, too
TOKENIZER_EXAMPLES = 200_000  # captions of so many examples a source train a tokenizer


def open_training_sources(config: ConfigDict) -> tuple[Source, ...]:
    """The sources of `config.data.train`."""
    specs = config.data.train
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
    if uses_regions(config) and not any(len(source.annotated) for source in sources):
        raise UserError(
            "config.loss.pta.weight is above 0, but no example of config.data.train has regions; "
            "prepare the data with regions, or set config.loss.pta.weight=0 and another mix.score"
        )
    return sources


def build_tokenizer(config: ConfigDict, sources: tuple[Source, ...]) -> Tokenizer:
    """Trains `wordpiece` or `bpe` on the captions at hand, or loads a file."""
    kind = config.data.tokenizer
    if kind not in TRAINED:
        with error_prefix(f"config.data.tokenizer={kind!r}: "):
            return load_tokenizer(kind)

    def train() -> str:
        captions = _captions(sources)
        with error_prefix("config.data."):
            return train_tokenizer(captions, kind=kind, vocab_size=config.data.vocab_size).to_json()

    return Tokenizer.from_json(processes.from_first(train, timeout_s=_TRAIN_S))


def _captions(sources: tuple[Source, ...]) -> list[str]:
    """Evenly spaced where there are many: the vocabulary does not gain from more captions than these."""
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
    """The captions of these examples, and the last of them that could not be read."""
    captions: list[str] = []
    unreadable = None
    for index in indices:
        try:
            captions += source[index].captions
        except CorruptExample as error:
            unreadable = error  # the pipeline counts and names it when it is its turn
    return captions, unreadable


def needs_boxes(config: ConfigDict) -> bool:
    """Whether the main batch must carry the boxes of its captions (the oracle's scores)."""
    return config.mix.mixer != "none" and config.mix.score == "oracle"


def uses_regions(config: ConfigDict) -> bool:
    """Whether a second stream of annotated images is read."""
    return config.loss.pta.weight > 0
