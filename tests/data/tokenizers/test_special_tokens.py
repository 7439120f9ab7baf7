"""Captions that spell special tokens: no id of a role may come from a text."""

import json

import pytest
import tokenizers as hf
from captions import CAPTIONS
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from timix_jax.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer

_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "mask", "[", "]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz<>/|[]"


def _vocab_txt(folder, words):
    (folder / "vocab.txt").write_text("\n".join(words))
    return load_tokenizer(folder / "vocab.txt")


def _byte_pairs(folder, letters, specials):
    """Write GPT-2's or CLIP's two files, in which special tokens are ordinary entries."""
    vocabulary = {token: index for index, token in enumerate([*letters, *specials])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return load_tokenizer(folder / "vocab.json")


def _word_level():
    tokenizer = hf.Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(_BERT)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(tokenizer)


def _unigram(normalized):
    specials = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
    pieces = [(name, 0.0) for name in specials] + [(letter, -3.0) for letter in f"{_LETTERS}▁"]
    tokenizer = hf.Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, normalized=normalized) for name in specials])
    return Tokenizer(tokenizer)


# Name → function of a folder.
KINDS = {
    "wordpiece": lambda folder: train_tokenizer(CAPTIONS, vocab_size=400),
    "bpe": lambda folder: train_tokenizer(CAPTIONS, kind="bpe", vocab_size=400),
    "vocab.txt": lambda folder: _vocab_txt(folder, _BERT),
    "vocab.txt without [PAD] and [MASK]": lambda folder: _vocab_txt(folder, _BERT[1:4] + _BERT[5:]),
    "gpt2": lambda folder: _byte_pairs(folder, [*_LETTERS, "\u0120"], ["<|endoftext|>"]),
    "clip": lambda folder: _byte_pairs(
        folder,
        [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)],
        ["<|startoftext|>", "<|endoftext|>"],
    ),
    "word level": lambda folder: _word_level(),
    "unigram": lambda folder: _unigram(normalized=False),
    "unigram, normalized": lambda folder: _unigram(normalized=True),
}
SPELT = [
    *("[PAD]", "[SEP]", "[MASK]", "[CLS]", "[mask]", "[Pad]", "<pad>", "<s>", "</s>", "<mask>"),
    *("<MASK>", "＜mask＞", "<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "[PAD][PAD]"),
]


@pytest.fixture(params=KINDS)
def tokenizer(request, tmp_path):
    return KINDS[request.param](tmp_path)


@pytest.mark.parametrize("stored", [False, True], ids=["new", "from_json"])
def test_text_never_gives_the_ids_of_roles(tokenizer, stored):
    if stored:  # as a checkpoint holds it
        tokenizer = Tokenizer.from_json(tokenizer.to_json())
    pad = tokenizer.pad_id
    roles = {pad, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    texts = [text for token in SPELT for text in (token, f"a {token} dog", f"a{token}dog")]
    for text, row in zip(texts, tokenizer.encode(texts, 64).tolist(), strict=True):
        end = next(place for place in range(63, 0, -1) if row[place] != pad)
        assert (row[0], row[end]) == (tokenizer.cls_id, tokenizer.sep_id), text
        assert roles.isdisjoint(row[1:end]), text


def test_other_words_and_the_stored_json_stay(tokenizer):
    before = tokenizer.to_json()
    alone = [tokenizer.encode([word], 8).tolist() for word in ("a dog", "dog")]
    tokenizer.encode(["a [MASK] dog </s>"], 64)
    assert [tokenizer.encode([word], 8).tolist() for word in ("a dog", "dog")] == alone
    assert tokenizer.to_json() == before
    assert Tokenizer.from_json(before) == tokenizer


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_spelt_tokens_are_encoded_as_their_characters(kind):
    letters = "[ ] mask MASK pad PAD unk UNK sep SEP cls CLS"
    tokenizer = train_tokenizer([*CAPTIONS, letters], kind=kind, vocab_size=500)
    for token in ("[MASK]", "[PAD]", "[SEP]", "[CLS]", "[UNK]"):
        text = tokenizer.decode(tokenizer.encode([f"a {token} sea"], 40)[0])
        wanted = f"a {token} sea" if kind == "bpe" else f"a [ {token[1:-1].lower()} ] sea"
        assert text == wanted


def test_special_words_that_have_no_role_stay_whole():
    """Keep `<PERSON>`, with which some data sets replace names, as the word that its vocabulary holds."""
    trained = hf.Tokenizer.from_str(train_tokenizer(CAPTIONS, vocab_size=400).to_json())
    trained.add_special_tokens(["<PERSON>"])
    tokenizer = Tokenizer(trained)
    person = trained.token_to_id("<PERSON>")
    assert person in tokenizer.encode(["<PERSON> near the sea"], 16)[0]
