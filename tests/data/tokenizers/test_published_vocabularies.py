"""Loading of published vocabularies, and errors of tokenizers."""

import json

import pytest
from captions import CAPTIONS

from timix_jax.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from timix_jax.errors import UserError


def test_loads_bert_vocab_txt(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "lemon", "##s", "and"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    assert tokenizer.encode(["A lemons zebra"], 8).tolist() == [[2, 5, 6, 7, 1, 3, 0, 0]]
    assert (tokenizer.vocab_size, tokenizer.mask_id) == (9, 4)


def test_cased_vocab_keeps_case(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    assert load_tokenizer(tmp_path / "vocab.txt").encode(["A a"], 4).tolist() == [[2, 5, 6, 3]]


def test_loads_tokenizer_json(tmp_path):
    trained = train_tokenizer(CAPTIONS, kind="bpe", vocab_size=400)
    (tmp_path / "tokenizer.json").write_text(trained.to_json())
    assert load_tokenizer(tmp_path / "tokenizer.json") == trained


def test_clip_vocabulary_gets_a_padding_token(tmp_path):
    # "model" is a word here, not a sign of a tokenizer.json.
    tokens = ["!", "a", "r", "e", "d", "!</w>", "a</w>", "d</w>", "re", "red</w>", "model"]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.json")
    # Id 0 is the word "!", so padding needs another id.
    assert tokenizer.pad_id == 13
    assert tokenizer.vocab_size == 15
    assert tokenizer.encode(["A  RED!"], 7).tolist() == [[11, 6, 9, 5, 12, 13, 13]]


def test_errors_are_one_line(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    calls = [
        lambda: train_tokenizer([], vocab_size=100),
        lambda: train_tokenizer(["  "], vocab_size=100),
        lambda: train_tokenizer(CAPTIONS, kind="char", vocab_size=100),
        lambda: train_tokenizer(CAPTIONS, vocab_size=3),
        lambda: train_tokenizer(CAPTIONS, kind="bpe", vocab_size=200),
        lambda: train_tokenizer([chr(i) for i in range(0x400, 0x500)], vocab_size=100),
        lambda: load_tokenizer(tmp_path / "missing.txt"),
        lambda: load_tokenizer(tmp_path / "bad.json"),
        lambda: load_tokenizer(tmp_path / "list.json"),
        lambda: load_tokenizer(tmp_path / "vocab.txt"),
        lambda: Tokenizer.from_json("{}"),
        lambda: train_tokenizer(CAPTIONS, vocab_size=100).encode(["a"], 1),
    ]
    for call in calls:
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_only_line_feeds_end_the_lines_of_a_vocabulary(tmp_path):
    """Keep U+2028 and U+0085, tokens of multilingual vocabularies: an extra line would shift all later ids."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2028", "\x85", "a", "dog", "[MASK]"]
    path = tmp_path / "vocab.txt"
    for text in ("\n".join(tokens) + "\n", "\r\n".join(tokens), "\ufeff" + "\n".join(tokens)):
        path.write_bytes(text.encode())
        tokenizer = load_tokenizer(path)
        assert (tokenizer.vocab_size, tokenizer.pad_id) == (9, 0)
        assert tokenizer.encode(["a dog"], 5).tolist() == [[2, 6, 7, 3, 0]]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("vocab.txt", b"\xff\xfe[UNK]", "vocab.txt is not in UTF-8"),
        ("tokenizer.json", b"\x80\x81", "tokenizer.json is not JSON"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json is not JSON"),
        ("tokenizer.json", b'{"model": {}}', r"vocabulary .*tokenizer\.json: not a .*; give one"),
    ],
)
def test_vocabulary_that_is_not_text_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "meant"), [("wordpeice", "wordpiece"), ("BPE", None), ("pbe", "bpe")]
)
def test_misspelt_kind_gets_a_suggestion(name, meant):
    with pytest.raises(UserError, match=r"or train wordpiece or bpe$") as error:
        load_tokenizer(name)
    assert str(error.value).startswith(f"vocabulary {name} does not exist; ")
    assert meant is None or f"did you mean {meant!r}? " in str(error.value)


def test_vocabulary_without_special_tokens_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(
        UserError, match=r"^vocabulary .*vocab\.json: the vocabulary has no cls token"
    ):
        load_tokenizer(tmp_path / "vocab.json")


def test_merges_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_bytes(b"\xff \xfe\n")
    with pytest.raises(UserError, match=r"merges\.txt is not in UTF-8"):
        load_tokenizer(tmp_path / "vocab.json")


def test_loads_gpt2_vocabulary_and_merges(tmp_path):
    """Load a vocabulary without end-of-word suffix, where the space belongs to the next word."""
    vocabulary = {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "\u0120ab": 4, "<|endoftext|>": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n\u0120 ab\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.json")
    assert tokenizer.encode(["ab ab", "ba"], 5)[:, 1:3].tolist() == [[2, 4], [1, 0]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\na c\n")
    with pytest.raises(UserError, match=r"merges\.txt disagree") as error:
        load_tokenizer(tmp_path / "vocab.json")
    assert "\n" not in str(error.value)
