"""Where words begin, for the kinds of vocabularies that mark it in different ways."""

import numpy as np
import pytest
import tokenizers as hf
from captions import CAPTIONS
from tokenizers import models, pre_tokenizers

from timix_jax.data.tokenizers import Tokenizer, train_tokenizer

TEXT = "aboveland lemons. and skierhouse sandboats"


def unigram():
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁le", -2.0), ("mons", -2.0), ("▁and", -2.0)]
    tokenizer = hf.Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["</s>", "<s>"])
    return Tokenizer(tokenizer), "lemons and lemons", ["lemons", "and", "lemons"]


def clip():
    letters = sorted(set("lemonsand"))
    merges = [("l", "e"), ("n", "d</w>"), ("a", "nd</w>")]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *("".join(m) for m in merges)]
    names = [*tokens, "<|startoftext|>", "<|endoftext|>"]
    model = models.BPE({t: i for i, t in enumerate(names)}, merges, end_of_word_suffix="</w>")
    tokenizer = hf.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(names[-2:])
    return Tokenizer(tokenizer, pad_id=0), "lemons and demons", ["lemons", "and", "demons"]


def trained(kind, words):
    size = 64 if kind == "wordpiece" else 261
    return train_tokenizer(CAPTIONS, kind=kind, vocab_size=max(size, 80)), TEXT, words


CASES = {
    "wordpiece": lambda: (
        *trained("wordpiece", None)[:2],
        ["aboveland", "lemons", ".", "and", "skierhouse", "sandboats"],
    ),
    # Its pieces mark blanks, so that a full stop belongs to the word before it.
    "bpe": lambda: trained("bpe", ["aboveland", "lemons.", "and", "skierhouse", "sandboats"]),
    "sentencepiece": unigram,
    "clip": clip,
}


@pytest.mark.parametrize("kind", CASES)
def test_words_are_told_apart(kind):
    tokenizer, text, words = CASES[kind]()
    ids = tokenizer.encode([text], 90)[0]
    end = int(np.argmax(ids[1:] == tokenizer.sep_id)) + 1
    inside = ids[(0 if tokenizer.cls_id is None else 1) : end]
    borders = tokenizer.word_borders
    assert len(borders.continues) == len(borders.unfinished) == tokenizer.vocab_size
    groups: list[list[int]] = []
    for before, index in zip([None, *inside], inside, strict=False):
        inner = borders.continues[index] or (before is not None and borders.unfinished[before])
        if inner:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    assert len(inside) > len(words)  # some words have several pieces
    assert len(groups) == len(words)
    if kind in ("wordpiece", "bpe"):
        assert [tokenizer.decode(group).replace(" ", "") for group in groups] == words


def test_special_tokens_are_words_of_their_own():
    tokenizer = train_tokenizer(CAPTIONS, kind="bpe", vocab_size=300)
    for marks in tokenizer.word_borders:
        assert not marks[list(tokenizer.special_ids)].any()
