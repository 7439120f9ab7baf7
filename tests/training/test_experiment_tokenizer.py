"""The tokenizer of a run, from data of which not everything can be read."""

import threading
import time

import numpy as np
import pytest
from listed_sources import ListSource, flat_source
from tiny_run import tiny_config

from timix_jax.errors import UserError
from timix_jax.training.build import read_settings
from timix_jax.training.build.data import build_tokenizer
from timix_jax.training.build.losses import build_vocabulary

DATA = read_settings(tiny_config(1, data__vocab_size=64, data__tokenizer="wordpiece")).data


def test_unreadable_examples_are_left_out():
    readable = flat_source(3, captions=("a lemon", "two skis"))
    holes = ListSource([None, *readable.records, None])
    assert build_tokenizer(DATA, (holes,)) == build_tokenizer(DATA, (readable,))


def test_objectives_know_the_special_tokens():
    """None of them is a word that could be hidden or written, not even the [SEP] that ends every caption."""
    source = flat_source(3, captions=("a lemon", "two skis"))
    tokenizer = build_tokenizer(DATA, (source,))
    vocabulary = build_vocabulary(tokenizer)
    special = {tokenizer.token(index) for index in vocabulary.special}
    assert special == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    roles = vocabulary.start_id, vocabulary.end_id, vocabulary.mask_id, vocabulary.pad_id
    names = ("[CLS]", "[SEP]", "[MASK]", "[PAD]")
    assert tuple(map(tokenizer.token, roles)) == names
    row = tokenizer.encode(["two skis"], 12)[0]
    end = row.tolist().index(vocabulary.end_id)
    is_word = np.asarray(vocabulary.is_word(row))
    np.testing.assert_array_equal(is_word, (np.arange(12) > 0) & (np.arange(12) < end))


def test_many_examples_are_asked_for_at_once():
    """A bucket answers after some 30 ms each time: one after another would take hours."""
    readable = flat_source(2048, captions=("a lemon", "two skis"))
    lock, at_once = threading.Lock(), [0, 0]

    class Bucket(ListSource):
        def __getitem__(self, index):
            with lock:
                at_once[0] += 1
                at_once[1] = max(at_once)
            time.sleep(0.002)
            with lock:
                at_once[0] -= 1
            return super().__getitem__(index)

    bucket = Bucket(readable.records)
    assert build_tokenizer(DATA, (bucket,)) == build_tokenizer(DATA, (readable,))
    assert at_once[1] > 16


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (ListSource([None] * 5), "no example can be read, such as list-4: unreadable"),
        (flat_source(3, captions=(" ",)), "no caption has a word"),
    ],
)
def test_data_without_a_word(source, words):
    with pytest.raises(UserError, match=rf"^config\.data\.train: {words}; prepare the data again$"):
        build_tokenizer(DATA, (source,))
