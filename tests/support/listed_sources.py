"""Small data sources, a tokenizer for their captions, and iterators over them."""

import contextlib
import io

import numpy as np
from PIL import Image

from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.pipeline import make_train_iterator
from timix_jax.data.records.schema import CorruptExample, Record
from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.data.tokenizers import train_tokenizer


class ListSource:
    """Records from a list; None stands for one that is corrupt in storage."""

    def __init__(self, records, name="list", annotated=()):
        self.records, self.name = records, name
        self.annotated = np.array(annotated, np.int64)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        if self.records[index] is None:
            raise CorruptExample(f"{self.name}-{index}", "unreadable")
        return self.records[index]


def flat_image(value: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def flat_source(count, name="list", captions=("a picture",), bad=()):
    return ListSource(
        [
            Record(f"{name}-{i}", b"broken" if i in bad else flat_image(i % 256), tuple(captions))
            for i in range(count)
        ],
        name,
    )


def shapes_source():
    return open_synthetic(examples=40, size=32, captions=3, regions=2)


def tokenizer_of(source):
    captions = [caption for i in range(len(source)) for caption in source[i].captions]
    return train_tokenizer([*captions, "one two three four a picture"], vocab_size=200)


@contextlib.contextmanager
def small_iterators(tokenizer, **overrides):
    """Yield `make_train_iterator` with small defaults; close all its iterators at the end."""
    opened = []

    def start(sources, weights=None, **options):
        defaults = {
            "batch_size": 8, "image_size": 16, "max_tokens": 12, "tokenizer": tokenizer, "seed": 0,
            "augment": Augment(crop_min=0.4, randaugment=2), **overrides,
        }  # fmt: skip
        opened.append(make_train_iterator(sources, weights, **{**defaults, **options}))
        return opened[-1]

    try:
        yield start
    finally:
        for iterator in opened:
            iterator.close()


def skipped_by_source(iterator):
    """Return the number of corrupt examples that an iterator replaced, by source name."""
    return iterator._corrupt.counts


def take(iterator, count):
    return [next(iterator) for _ in range(count)]
