"""Encoding captions as token ids."""

import functools
from collections.abc import Sequence

import numpy as np
import tokenizers as hf

from timix_jax.errors import UserError

# Texts whose encoding is cached: region texts and the captions of a small data set repeat.
_CACHED_TEXTS = 2**16
# Names of the special tokens in published vocabularies, in order of preference.
_ROLE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>", "<|startoftext|>", "<bos>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>", "<|endoftext|>", "<eos>"),
    "mask": ("[MASK]", "<mask>"),
}
_UNKNOWN_NAMES = ("[UNK]", "<unk>")


class Tokenizer:
    """Encoder of texts as [CLS] words [SEP] padding; immutable, so threads can share it.

    A vocabulary without a padding or mask token gets one appended, so that no word takes that role.
    A text that spells a special token, such as "[MASK]", is encoded as the characters that it is.

    Args:
      tokenizer: a tokenizer of the `tokenizers` library. Its own truncation, padding and
        special-token template are not used.

    Raises:
      UserError: the vocabulary has no token to start or end a text with.
    """

    def __init__(self, tokenizer: hf.Tokenizer):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._words = functools.lru_cache(_CACHED_TEXTS)(self._encode_words)
        self.pad_id = self._role_id("pad", append="[PAD]")
        self.cls_id = self._role_id("cls")
        self.sep_id = self._role_id("sep")
        self.mask_id = self._role_id("mask", append="[MASK]")
        self._role_ids = frozenset({self.pad_id, self.cls_id, self.sep_id, self.mask_id})
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
        """Return token ids int32 (n, max_tokens); a truncated text still ends with [SEP]."""
        if max_tokens < 2:
            raise UserError(f"max_tokens={max_tokens}: [CLS] and [SEP] take 2, words need more")
        ids = np.full((len(texts), max_tokens), self.pad_id, np.int32)
        for row, text in zip(ids, texts, strict=True):
            words = self._words(text)[: max_tokens - 2]
            row[0] = self.cls_id
            row[1 : 1 + len(words)] = words
            row[1 + len(words)] = self.sep_id
        return ids

    def _encode_words(self, text: str) -> tuple[int, ...]:
        # Not encode_batch, which would start its own threads inside the loader's.
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._role_ids.isdisjoint(ids) or any(name in text for name in _UNKNOWN_NAMES):
            ids = self._literal.encode(text, add_special_tokens=False).ids
            # Some models (WordLevel, Unigram) have special tokens among their words too.
            ids = [index for index in ids if index not in self._role_ids]
        return tuple(ids)

    @functools.cached_property
    def _literal(self) -> hf.Tokenizer:
        """The same tokenizer, to which special tokens in a text are ordinary characters."""
        literal = hf.Tokenizer.from_str(self._tokenizer.to_str())
        literal.encode_special_tokens = True
        return literal

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ids (T,) without special tokens."""
        words = [int(index) for index in ids if int(index) not in self._role_ids]
        return self._tokenizer.decode(words).strip()

    def to_json(self) -> str:
        """Return the whole tokenizer in the tokenizer.json format."""
        return self._tokenizer.to_str()

    @staticmethod
    def from_json(text: str) -> "Tokenizer":
        """Read a tokenizer.json, such as `to_json`'s output. Raises UserError if it is invalid."""
        try:
            return Tokenizer(hf.Tokenizer.from_str(text))
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"not a tokenizer.json ({reason}); give one written by the tokenizers library"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __getstate__(self) -> str:
        return self.to_json()

    def __setstate__(self, state: str) -> None:
        self.__init__(hf.Tokenizer.from_str(state))  # type: ignore[misc]
