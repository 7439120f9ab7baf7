"""Training a vocabulary on captions: WordPiece and byte-level BPE."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from timix_jax.data.tokenizers.tokenizer import Tokenizer
from timix_jax.errors import UserError

TRAINED = ("wordpiece", "bpe")  # the kinds that are trained on captions
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Rarer letters become [UNK]: web captions have thousands that occur once or twice.
_MAX_ALPHABET = 1000


def train_tokenizer(
    captions: Iterable[str], *, kind: str = "wordpiece", vocab_size: int = 8000
) -> Tokenizer:
    """Train a vocabulary that does not depend on the order of the captions.

    Args:
      captions: texts; all of them are read.
      kind: "wordpiece" (lower-cased, like BERT's) or "bpe" (byte-level, case kept).
      vocab_size: upper bound on the number of ids, special tokens included; id 0 is padding.

    Raises:
      UserError: unknown kind, no text, or a vocabulary too small for the alphabet.
    """
    if kind not in TRAINED:
        raise UserError(f"unknown tokenizer kind {kind!r}; choose wordpiece or bpe")
    if vocab_size < 64:
        raise UserError(f"vocab_size={vocab_size} leaves no room for words; use 64 or more")
    if kind == "bpe" and vocab_size < 256 + len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size={vocab_size}: bpe needs {256 + len(SPECIAL_TOKENS)} or more")
    texts = sorted(captions)
    if not any(text.strip() for text in texts):
        raise UserError("no captions to train a tokenizer on; check the data")
    return (
        _train_wordpiece(texts, vocab_size)
        if kind == "wordpiece"
        else _train_bpe(texts, vocab_size)
    )


def _train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer)


def _train_wordpiece(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train with the alphabet supplied in sorted order.

    The trainer numbers the letters inside words ("##a") in hash-map order, which differs between
    runs, and breaks ties by these numbers. Supplying them up front, as special tokens during
    training only, gives them the same numbers in every run.
    """
    draft = bert_tokenizer(models.WordPiece(unk_token="[UNK]"))
    texts = [draft.normalizer.normalize_str(text) for text in texts]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda letter: (-counts[letter], letter))[:_MAX_ALPHABET]
    dropped = {ord(letter): " " for letter in set(counts) - set(kept)}
    if dropped:
        texts = [text.translate(dropped) for text in texts]
    words = {word for text in texts for word in text.split()}
    pieces = {piece for word in words for piece, _ in draft.pre_tokenizer.pre_tokenize_str(word)}
    inside = sorted({"##" + letter for piece in pieces for letter in piece[1:]})
    needed = len(SPECIAL_TOKENS) + len(inside) + len({piece[0] for piece in pieces})
    if vocab_size < needed:
        raise UserError(
            f"vocab_size={vocab_size}: the letters of these captions need {needed} or more"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *inside], show_progress=False
    )
    draft.train_from_iterator(texts, trainer)
    tokenizer = bert_tokenizer(
        models.WordPiece(draft.get_vocab(with_added_tokens=False), unk_token="[UNK]")
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(tokenizer)


def bert_tokenizer(model: Any, lowercase: bool = True) -> hf.Tokenizer:
    """Wrap a WordPiece model with BERT's normalization and word splitting."""
    tokenizer = hf.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
