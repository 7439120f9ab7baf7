"""Small data sources, and a tokenizer that knows their captions."""

import io

import numpy as np
from PIL import Image

from timix_jax.data.record_schema import CorruptExample, Record
from timix_jax.data.synthetic import open_synthetic
from timix_jax.data.tokenizers import train_tokenizer


class ListSource:
    """Records from a list; None is corrupt in storage."""

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
