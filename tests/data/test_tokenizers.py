"""Tokenizers: layout of the rows, determinism between processes, round trips, published formats."""

import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from timix_jax.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from timix_jax.errors import UserError

CAPTIONS = [
    f"A {color} {thing} {place} the {other}."
    for color in ("red", "blue", "Green", "violet")
    for thing in ("square", "disc", "lemon", "skier's boat")
    for place in ("above", "below", "near")
    for other in ("sea", "house", "ånd", "mountains")
]


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


def test_a_text_met_again_is_cut_anew_and_shares_no_memory(tokenizer):
    text = "a lemon and two skis"
    short = tokenizer.encode([text], 4)
    whole = tokenizer.encode([text, text], 16)
    fresh = type(tokenizer).from_json(tokenizer.to_json()).encode([text], 16)
    whole[0] = 0
    np.testing.assert_array_equal(whole[1], fresh[0])
    np.testing.assert_array_equal(short[0, :3], fresh[0, :3])
    assert short[0, 3] == tokenizer.sep_id
    np.testing.assert_array_equal(tokenizer.encode([text], 16), fresh)


def test_decode_gives_the_text_back(tokenizer):
    tokens = tokenizer.encode(["a red disc near the sea"], max_tokens=40)[0]
    assert tokenizer.decode(tokens) == "a red disc near the sea"


def test_wordpiece_ignores_case_and_bpe_keeps_it():
    wordpiece = train_tokenizer(CAPTIONS, kind="wordpiece", vocab_size=400)
    np.testing.assert_array_equal(
        wordpiece.encode(["RED Sea"], 9), wordpiece.encode(["red sea"], 9)
    )
    bpe = train_tokenizer(CAPTIONS, kind="bpe", vocab_size=400)
    assert bpe.decode(bpe.encode(["Green 雪"], 20)[0]) == "Green 雪"


def test_json_and_pickle_round_trip(tokenizer):
    for copy in (Tokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
        assert copy == tokenizer
        assert copy.vocab_size == tokenizer.vocab_size
        np.testing.assert_array_equal(copy.encode(CAPTIONS, 20), tokenizer.encode(CAPTIONS, 20))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_depends_on_the_captions_only(kind):
    """Hash seeds differ between processes, and so did the ids of WordPiece's inner letters."""
    program = (
        "import json, sys; from timix_jax.data.tokenizers import train_tokenizer;"
        "print(train_tokenizer(json.load(sys.stdin), kind=sys.argv[1], vocab_size=300).to_json())"
    )
    shuffled = CAPTIONS.copy()
    random.Random(3).shuffle(shuffled)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, kind],
            input=json.dumps(captions),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for captions in (CAPTIONS, CAPTIONS, shuffled)
    }
    assert len(outputs) == 1


def test_vocabulary_is_as_large_as_asked():
    text = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    assert train_tokenizer(text, vocab_size=100).vocab_size == 100
    assert train_tokenizer(text, kind="bpe", vocab_size=300).vocab_size == 300


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


def test_loads_clip_vocab_and_gives_it_a_padding_token(tmp_path):
    # "model" is a word there, and no sign of a tokenizer.json.
    tokens = ["!", "a", "r", "e", "d", "!</w>", "a</w>", "d</w>", "re", "red</w>", "model"]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.json")
    # "!" is id 0 and a word: padding must be another id.
    assert tokenizer.pad_id == 13
    assert tokenizer.vocab_size == 15
    assert tokenizer.encode(["A  RED!"], 7).tolist() == [[11, 6, 9, 5, 12, 13, 13]]


def test_errors_are_one_line_and_say_what_to_do(tmp_path):
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


def test_lines_of_a_vocabulary_end_with_line_feeds_alone(tmp_path):
    """Multilingual vocabularies hold U+2028 and U+0085 as tokens; an id too many would shift all that follow."""
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
        ("tokenizer.json", b"\x80\x81", "tokenizer.json is no JSON"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json is no JSON"),
        ("tokenizer.json", b'{"model": {}}', r"vocabulary .*tokenizer\.json: not a .*; give one"),
    ],
)
def test_vocabularies_that_are_no_text(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "meant"), [("wordpeice", "wordpiece"), ("BPE", None), ("pbe", "bpe")]
)
def test_a_misspelt_kind_is_offered(name, meant):
    with pytest.raises(UserError, match=r"or train wordpiece or bpe$") as error:
        load_tokenizer(name)
    assert str(error.value).startswith(f"vocabulary {name} does not exist; ")
    assert meant is None or f"did you mean {meant!r}? " in str(error.value)


def test_a_vocabulary_without_the_tokens_of_a_text_is_named(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(
        UserError, match=r"^vocabulary .*vocab\.json: the vocabulary has no cls token"
    ):
        load_tokenizer(tmp_path / "vocab.json")


def test_merges_that_are_no_text(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_bytes(b"\xff \xfe\n")
    with pytest.raises(UserError, match=r"merges\.txt is not in UTF-8"):
        load_tokenizer(tmp_path / "vocab.json")


def test_vocabulary_and_merges_as_gpt2_has_them(tmp_path):
    """No end-of-word suffix; the space belongs to the word after it."""
    vocabulary = {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "\u0120ab": 4, "<|endoftext|>": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n\u0120 ab\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.json")
    assert tokenizer.encode(["ab ab", "ba"], 5)[:, 1:3].tolist() == [[2, 4], [1, 0]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\na c\n")
    with pytest.raises(UserError, match=r"merges\.txt disagree") as error:
        load_tokenizer(tmp_path / "vocab.json")
    assert "\n" not in str(error.value)
