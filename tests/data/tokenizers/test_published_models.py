"""Tokenizers of published models: CLIP's ids as open_clip gives them, sentencepiece's as sentencepiece gives them."""

import gzip
import json
import pickle

import numpy as np
import pytest
import tokenizers as hf
from captions import CAPTIONS
from repository import ROOT

from timix_jax.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from timix_jax.data.tokenizers.cleaning import canonical_text, clip_text
from timix_jax.errors import UserError

FIXTURES = ROOT / "tests" / "fixtures"
CLIP_FILE = FIXTURES / "small_clip_bpe.txt.gz"
# Written by open_clip 3.3.0: SimpleTokenizer(bpe_path=CLIP_FILE)([text], 24) without the padding with 0, and
# canonicalize_text(basic_clean(text)). Code points that Unicode has assigned since are left out, as are texts that
# spell open_clip's special tokens, which are text here and special there.
HARD = [json.loads(line) for line in (FIXTURES / "clip_texts.jsonl").read_text().splitlines()]
TEXTS = [row["text"] for row in HARD]


@pytest.fixture(scope="module")
def clip():
    return load_tokenizer(CLIP_FILE)


def padded(rows, length):
    return np.array([row + [0] * (length - len(row)) for row in rows])


def test_clip_gives_the_ids_of_open_clip(clip):
    expected = padded([row["ids"] for row in HARD], 24)
    assert len(HARD) > 100
    np.testing.assert_array_equal(clip.encode(TEXTS, 24), expected)
    assert (clip.pad_id, clip.cls_id, clip.sep_id, clip.mask_id) == (0, 1246, 1247, None)
    assert clip.vocab_size == 1248  # nothing is appended


def test_clip_keeps_its_ids_wherever_it_goes(clip, tmp_path):
    (tmp_path / "tokenizer.json").write_text(clip.to_json())
    copies = (
        Tokenizer.from_json(clip.to_json()),
        pickle.loads(pickle.dumps(clip)),
        load_tokenizer(tmp_path / "tokenizer.json"),
    )
    for copy in copies:
        assert copy == clip
        np.testing.assert_array_equal(copy.encode(TEXTS, 24), clip.encode(TEXTS, 24))


def test_clip_uses_the_first_merges_of_its_file(tmp_path):
    """OpenAI's file lists five times as many as the 48,894 that make 49,408 ids."""
    codes = (*range(33, 127), *range(161, 173), *range(174, 256))
    letters = [chr(code) for code in codes]
    merges = [f"{a} {b}{end}" for a in letters for b in letters for end in ("", "</w>")]
    file = tmp_path / "bpe.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["#version", *merges]).encode(), 1))
    whole = load_tokenizer(file)
    assert len(merges) > 60_000
    assert (whole.vocab_size, whole.cls_id, whole.sep_id) == (49_408, 49_406, 49_407)


def test_clip_pads_with_a_word_that_stays_a_word(clip):
    row = clip.encode(["wow ! dog"], 12)[0].tolist()
    assert clip.encode(["!"], 4)[0].tolist() == [1246, 256, 1247, 0]
    assert 256 in row
    assert clip.decode(clip.encode(["a red dog!"], 16)[0]) == "a red dog !"


@pytest.mark.parametrize("spelt", ["<|endoftext|>", "<|startoftext|>", "<end_of_text>"])
def test_clip_reads_special_tokens_as_text(clip, spelt):
    row = clip.encode([f"a {spelt} dog"], 40)[0].tolist()
    assert row.count(1246) == 1
    assert row.count(1247) == 1


def test_cleaning_is_that_of_open_clip():
    assert [canonical_text(text) for text in TEXTS] == [row["canonical"] for row in HARD]
    assert clip_text("  A &amp;amp; B’s\n\u201cﬁne\u201d ΣΑΣ ") == 'a & b\'s "fine" σας'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"plain text", "not gzipped text"),
        (gzip.compress(b"header\na b\nnot one merge\n"), "line 3 is not a merge"),
        (gzip.compress(b"header\nzz y\n"), "line 2 is not a merge of two earlier tokens: 'zz y'"),
        (gzip.compress(b"header\n"), "it has no merges"),
        (gzip.compress(b"header\n\xff\xfe a\n"), "not gzipped text"),
        (CLIP_FILE.read_bytes()[:900], "not gzipped text"),
    ],
    # gzip writes the time into its header; workers must agree on the names of tests.
    ids=["not gzip", "no merge", "unknown tokens", "header only", "not utf-8", "cut short"],
)
def test_damaged_clip_files_are_refused(tmp_path, data, message):
    (tmp_path / "bpe.txt.gz").write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(tmp_path / "bpe.txt.gz")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def train_pieces(tmp_path_factory):
    spm = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("spm")

    def train(kind, **options):
        path = folder / f"{kind}{len(list(folder.iterdir()))}.model"
        with path.open("wb") as file:
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter([text.lower() for text in CAPTIONS * 3] + TEXTS[:40] * 2),
                model_writer=file,
                model_type=kind,
                minloglevel=2,
                num_threads=1,
                hard_vocab_limit=False,
                **options,
            )
        return path, spm.SentencePieceProcessor(model_file=str(path))

    return train


T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}  # SigLIP's
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "byte_fallback": True}  # SigLIP 2's


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unigram", {"vocab_size": 300, **T5}),
        ("unigram", {"vocab_size": 500, **T5, "normalization_rule_name": "identity"}),
        ("bpe", {"vocab_size": 500, **GEMMA, "add_dummy_prefix": False}),
        ("bpe", {"vocab_size": 260, **T5}),
    ],
)
def test_sentencepiece_gives_the_ids_of_the_library(train_pieces, kind, options):
    path, library = train_pieces(kind, **options)
    tokenizer = load_tokenizer(path)
    pad = 0 if options is not T5 and "byte_fallback" in options else 1
    assert (tokenizer.pad_id, tokenizer.sep_id, tokenizer.cls_id) == (pad, 1, None)
    # Without a hundred times the same letter, of which several splits score the same.
    texts = [text for text in (*CAPTIONS[:20], *TEXTS) if "aaaa" not in canonical_text(text)]
    for text in texts:
        words = library.encode(canonical_text(text))[:39]
        expected = [*words, 1, *[pad] * (39 - len(words))]
        assert tokenizer.encode([text], 40)[0].tolist() == expected, text
    copy = Tokenizer.from_json(tokenizer.to_json())
    np.testing.assert_array_equal(copy.encode(texts, 40), tokenizer.encode(texts, 40))
    assert tokenizer.vocab_size == library.get_piece_size()
    words = canonical_text(CAPTIONS[0])
    assert tokenizer.decode(tokenizer.encode([words], 60)[0]) == words


def test_sentencepiece_files_that_cannot_be_used(train_pieces, tmp_path):
    path, _ = train_pieces("word", vocab_size=60, **T5)
    with pytest.raises(UserError, match="neither unigram nor BPE"):
        load_tokenizer(path)
    path, _ = train_pieces("unigram", vocab_size=300, pad_id=0, eos_id=-1, unk_id=1, bos_id=-1)
    with pytest.raises(UserError, match="no end-of-sentence piece '</s>'"):
        load_tokenizer(path)
    for data in (b"", b"\xff" * 50, b"words"):
        (tmp_path / "broken.model").write_bytes(data)
        with pytest.raises(UserError, match=r"broken\.model: it is not a sentencepiece model"):
            load_tokenizer(tmp_path / "broken.model")


def vocab_txt(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return load_tokenizer(folder / "vocab.txt")


@pytest.mark.parametrize(
    "make",
    [
        vocab_txt,
        lambda folder: load_tokenizer(CLIP_FILE),
        lambda folder: train_tokenizer(CAPTIONS, vocab_size=300),
        lambda folder: train_tokenizer(CAPTIONS, kind="bpe", vocab_size=400),
    ],
    ids=["vocab.txt", "clip", "wordpiece", "bpe"],
)
def test_other_programs_add_the_special_tokens_too(tmp_path, make):
    ours = make(tmp_path)
    theirs = hf.Tokenizer.from_str(ours.to_tokenizer_json())
    ids = theirs.encode("a red dog").ids
    row = ours.encode(["a red dog"], len(ids) + 2)[0].tolist()
    assert ids == row[: len(ids)]
    assert (ids[0], ids[-1]) == (ours.cls_id, ours.sep_id)
    assert row[len(ids) :] == [ours.pad_id] * 2
    pair = theirs.encode("a", "dog")
    assert pair.ids.count(ours.sep_id) == 2
    assert max(pair.type_ids) == 1


def test_tokenizers_of_earlier_versions_are_the_same_tokenizer(tmp_path):
    """Compare as tokenizers what checkpoints hold as text: earlier ones lack the template."""
    ours = vocab_txt(tmp_path)
    stored = json.loads(ours.to_json()) | {"post_processor": None}
    assert json.dumps(stored) != ours.to_json()
    assert Tokenizer.from_json(json.dumps(stored)) == ours


def test_a_given_padding_appends_nothing(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na")
    plain, given = (load_tokenizer(tmp_path / "vocab.txt", pad_id=pad) for pad in (None, 2))
    assert (plain.pad_id, plain.mask_id, plain.vocab_size) == (4, 5, 6)
    assert (given.pad_id, given.mask_id, given.vocab_size) == (2, None, 4)
    assert given.encode(["a"], 5).tolist() == [[1, 3, 2, 2, 2]]
    with pytest.raises(UserError, match="pad_id=4: the vocabulary has ids 0 to 3"):
        load_tokenizer(tmp_path / "vocab.txt", pad_id=4)
