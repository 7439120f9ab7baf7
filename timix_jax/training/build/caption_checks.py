"""Captions that an objective could never use, refused before the training."""

import itertools
from collections.abc import Sequence

import numpy as np

from timix_jax.data.records.schema import CorruptExample
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.objectives import Objective
from timix_jax.objectives.prefix_language import PrefixLanguage

MOST_EXAMPLES = 10_000
LEAST_TOKENS = 4  # [CLS], a word for either part, [SEP]


def check_splittable(
    objectives: Sequence[Objective],
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    max_tokens: int,
) -> None:
    """Raise a UserError if PrefixLM is trained and no caption has two words to be split between.

    Reads until the first caption with two words, at most `MOST_EXAMPLES` examples.
    """
    if not any(isinstance(objective, PrefixLanguage) for objective in objectives):
        return
    examples = itertools.chain.from_iterable(
        ((source, index) for index in range(len(source))) for source in sources
    )
    read = 0
    for source, index in itertools.islice(examples, MOST_EXAMPLES):
        read += 1
        try:
            captions = source[index].captions
        except CorruptExample:
            continue  # the input pipeline names and counts it
        if any(_splits(row, tokenizer) for row in tokenizer.encode(captions, max_tokens)):
            return
    raise UserError(
        f"config.loss.plm splits captions between two words, but none of the first {read} examples of config.data.train"
        f" has a caption of two words within config.model.text.max_tokens={max_tokens}: set its weight to 0, or give"
        " longer captions"
    )


def _splits(row: np.ndarray, tokenizer: Tokenizer) -> bool:
    """Return True if a word begins in a row int32 (T,) behind the first one."""
    end = 1 + int(np.argmax(row[1:] == tokenizer.sep_id))
    borders = tokenizer.word_borders
    begins = ~borders.continues[row[2:end]] & ~borders.unfinished[row[1 : end - 1]]
    return bool(begins.any())
