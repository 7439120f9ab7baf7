"""Captions to token ids: WordPiece and byte-level BPE, trained on the captions or loaded.

**Example:**

    tokenizer = train_tokenizer(captions, kind="wordpiece", vocab_size=4000)
    tokens = tokenizer.encode(["a lemon and two skis"], max_tokens=16)  # int32 (1, 16)
    tokenizer == Tokenizer.from_json(tokenizer.to_json())
"""

import difflib
import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers as hf
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from timix_jax.errors import UserError, located
from timix_jax.runtime.remote import as_path

# Letters beyond the most frequent become [UNK]: web captions have thousands, each once or twice.
_MAX_ALPHABET = 1000
# Texts whose words are kept: those of regions come again and again, and so do the captions of a small data set.
_REMEMBERED = 2**16
TRAINED = ("wordpiece", "bpe")  # the kinds that are trained on captions
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What published vocabularies call the roles, in the order in which they are looked for.
_ROLE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>", "<|startoftext|>", "<bos>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>", "<eos>"),
    "mask": ("[MASK]", "<mask>"),
}
_CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_BOM = "\ufeff"  # the byte-order mark, as some editors put it before UTF-8


class Tokenizer:
    """Encodes as [CLS] words [SEP] padding. Not changed after it is made; safe to share by threads.

    A vocabulary without a padding or mask token gets one appended, so that no word doubles as it.

    Args:
      tokenizer: of the `tokenizers` library. Its own truncation, padding and special-token
        template are not used.

    Raises:
      UserError: it has no token to begin or to end a text with.
    """

    def __init__(self, tokenizer: hf.Tokenizer):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._words = functools.lru_cache(_REMEMBERED)(self._encode_words)
        self.pad_id = self._role_id("pad", append="[PAD]")
        self.cls_id = self._role_id("cls")
        self.sep_id = self._role_id("sep")
        self.mask_id = self._role_id("mask", append="[MASK]")
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    def _role_id(self, role: str, append: str | None = None) -> int:
        names = _ROLE_NAMES[role]
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        for name in names:
            if name in vocabulary:
                return vocabulary[name]
        if append is None:
            raise UserError(
                f"the vocabulary has no {role} token; it needs one of {', '.join(names)}"
            )
        self._tokenizer.add_special_tokens([append])
        return self._tokenizer.get_vocab(with_added_tokens=True)[append]

    def encode(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        """Token ids int32 (n, max_tokens); a longer text is cut and still ends with [SEP]."""
        if max_tokens < 2:
            raise UserError(f"max_tokens={max_tokens}: [CLS] and [SEP] need 2 and words need more")
        ids = np.full((len(texts), max_tokens), self.pad_id, np.int32)
        for row, text in zip(ids, texts, strict=True):
            words = self._words(text)[: max_tokens - 2]
            row[0] = self.cls_id
            row[1 : 1 + len(words)] = words
            row[1 + len(words)] = self.sep_id
        return ids

    def _encode_words(self, text: str) -> tuple[int, ...]:
        # One by one: encode_batch starts threads of its own, under the loader's.
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids (T,), without special tokens."""
        special = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}
        return self._tokenizer.decode([int(i) for i in ids if int(i) not in special]).strip()

    def to_json(self) -> str:
        """The whole tokenizer, in the tokenizer.json format."""
        return self._tokenizer.to_str()

    @staticmethod
    def from_json(text: str) -> "Tokenizer":
        """Reads `to_json`'s output, or any tokenizer.json. Raises UserError if it is neither."""
        try:
            return Tokenizer(hf.Tokenizer.from_str(text))
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"not a tokenizer.json ({reason}); give one that the tokenizers library has written"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __getstate__(self) -> str:
        return self.to_json()

    def __setstate__(self, state: str) -> None:
        self.__init__(hf.Tokenizer.from_str(state))  # type: ignore[misc]


def train_tokenizer(
    captions: Iterable[str], *, kind: str = "wordpiece", vocab_size: int = 8000
) -> Tokenizer:
    """Trains a vocabulary; the same captions in any order give the same one.

    Args:
      captions: texts; all of them are read.
      kind: "wordpiece" (lower-cased, as BERT's) or "bpe" (byte-level, case kept).
      vocab_size: at most this many ids, special tokens included; id 0 is padding.

    Raises:
      UserError: unknown kind, no text, or a vocabulary too small for the alphabet.
    """
    if kind not in TRAINED:
        raise UserError(f"tokenizer kind {kind!r} is not known; choose wordpiece or bpe")
    if vocab_size < 64:
        raise UserError(f"vocab_size={vocab_size} leaves no room for words; give 64 or more")
    if kind == "bpe" and vocab_size < 256 + len(SPECIAL_TOKENS):
        raise UserError(f"vocab_size={vocab_size}: bpe needs {256 + len(SPECIAL_TOKENS)} or more")
    texts = sorted(captions)
    if not any(text.strip() for text in texts):
        raise UserError("there are no captions to train a tokenizer on; check the data")
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
    """Trains with the alphabet given in sorted order.

    The trainer numbers the letters inside words ("##a") in the order of a hash map, which differs
    between runs, and breaks ties by these numbers. Given beforehand, as special tokens of the
    training only, they are numbered the same in every run.
    """
    draft = _bert(models.WordPiece(unk_token="[UNK]"))
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
        raise UserError(f"vocab_size={vocab_size}: these captions' letters need {needed} or more")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *inside], show_progress=False
    )
    draft.train_from_iterator(texts, trainer)
    tokenizer = _bert(models.WordPiece(draft.get_vocab(with_added_tokens=False), unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(tokenizer)


def _bert(model: Any, lowercase: bool = True) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Loads a published vocabulary.

    Args:
      path: a tokenizer.json; a vocab.txt of BERT's (one token a line; lower-cased unless it has
        upper-case words); or a vocab.json with its merges.txt beside it (GPT-2's or CLIP's BPE; of CLIP's own cleaning
        only the white space and the case: no ftfy, and HTML's entities stay as they are).

    Raises:
      UserError: the file is missing or is none of these.
    """
    path = as_path(path)
    if not path.is_file():
        close = difflib.get_close_matches(str(path), TRAINED, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"vocabulary {path} does not exist; {meant}give a vocab.txt or tokenizer.json, or train wordpiece or bpe"
        )
    if path.suffix == ".txt":
        return _load_wordpiece(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8").removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"vocabulary {path} is no JSON; give a vocab.txt or tokenizer.json"
        ) from error
    # "model" alone is also a word of CLIP's vocabulary.
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        with located(f"vocabulary {path}: "):
            return Tokenizer.from_json(json.dumps(content))
    merges = path.with_name("merges.txt")
    if not isinstance(content, dict) or not merges.is_file():
        raise UserError(f"vocabulary {path} is no tokenizer.json and has no merges.txt beside it")
    with located(f"vocabulary {path}: "):
        return Tokenizer(_load_bpe(path, merges, content))


def _lines(path: epath.Path) -> list[str]:
    """The lines of a vocabulary file. Only line feeds end one: U+2028 or U+0085 can be a token."""
    try:
        text = path.read_text(encoding="utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path} is not in UTF-8: {error}") from error
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")


def _load_wordpiece(path: epath.Path) -> Tokenizer:
    tokens = _lines(path)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    missing = [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in vocabulary]
    if missing:
        raise UserError(f"vocabulary {path} has no {missing[0]}; it is not a vocab.txt of BERT's")
    cased = any(token != token.lower() for token in tokens if not token.startswith("["))
    return Tokenizer(_bert(models.WordPiece(vocabulary, unk_token="[UNK]"), lowercase=not cased))


def _load_bpe(
    path: epath.Path, merges_path: epath.Path, vocabulary: dict[str, int]
) -> hf.Tokenizer:
    merges = [
        (line.split()[0], line.split()[1])
        for line in _lines(merges_path)
        if len(line.split()) == 2 and not line.startswith("#version")
    ]
    clip = any(token.endswith("</w>") for token in vocabulary)
    try:
        # The library takes no None for "no suffix".
        model = models.BPE(vocabulary, merges, **({"end_of_word_suffix": "</w>"} if clip else {}))
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"it and its merges.txt disagree ({reason}); take both from one model"
        ) from error
    tokenizer = hf.Tokenizer(model)
    if clip:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(hf.Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(hf.Regex(_CLIP_PATTERN), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
