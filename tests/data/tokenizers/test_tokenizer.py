"""Encoding: layout of the rows, round trips."""

import pickle

import numpy as np
import pytest
from captions import CAPTIONS

from timix_jax.data.tokenizers import Tokenizer, train_tokenizer


@pytest.fixture(params=["wordpiece", "bpe"])
def tokenizer(request):
    return train_tokenizer(CAPTIONS, kind=request.param, vocab_size=400)


def test_rows_are_cls_words_sep_padding(tokenizer):
    tokens = tokenizer.encode(["a red disc", ""], max_tokens=32)
    assert tokens.shape == (2, 32)
    assert tokens.dtype == np.int32
    assert tokenizer.pad_id == 0
    for row in tokens:
        (end,) = np.flatnonzero(row == tokenizer.sep_id)
        assert row[0] == tokenizer.cls_id
        assert (row[1:end] > 0).all()
        assert (row[end + 1 :] == 0).all()
    assert tokens[1, 1] == tokenizer.sep_id
    assert tokens.max() < tokenizer.vocab_size


def test_truncation_keeps_sep_and_the_first_words(tokenizer):
    whole = tokenizer.encode([CAPTIONS[0]], max_tokens=64)[0]
    cut = tokenizer.encode([CAPTIONS[0]], max_tokens=5)[0]
    np.testing.assert_array_equal(cut[:4], whole[:4])
    assert cut[4] == tokenizer.sep_id


def test_repeated_text_is_truncated_again_and_shares_no_memory(tokenizer):
    text = "a lemon and two skis"
    short = tokenizer.encode([text], 4)
    whole = tokenizer.encode([text, text], 16)
    fresh = type(tokenizer).from_json(tokenizer.to_json()).encode([text], 16)
    whole[0] = 0
    np.testing.assert_array_equal(whole[1], fresh[0])
    np.testing.assert_array_equal(short[0, :3], fresh[0, :3])
    assert short[0, 3] == tokenizer.sep_id
    np.testing.assert_array_equal(tokenizer.encode([text], 16), fresh)


def test_decode_inverts_encode(tokenizer):
    tokens = tokenizer.encode(["a red disc near the sea"], max_tokens=40)[0]
    assert tokenizer.decode(tokens) == "a red disc near the sea"


def test_words_after_the_first_end_are_not_decoded(tokenizer):
    """Public code deletes [SEP] from the text that a search wrote, and keeps what it wrote behind it."""
    said, behind = tokenizer.encode(["a red disc", "near the sea"], max_tokens=40).tolist()
    whole = said[: said.index(tokenizer.sep_id) + 1]
    for start in (0, 1):  # a search returns tokens without the start
        assert tokenizer.decode([*whole[start:], *behind[1:]]) == "a red disc"


def test_json_and_pickle_round_trip(tokenizer):
    for copy in (Tokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
        assert copy == tokenizer
        assert copy.vocab_size == tokenizer.vocab_size
        np.testing.assert_array_equal(copy.encode(CAPTIONS, 20), tokenizer.encode(CAPTIONS, 20))
