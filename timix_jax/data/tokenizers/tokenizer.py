"""Encoding captions as token ids."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers as hf
from tokenizers import processors

from timix_jax.data.tokenizers.cleaning import CLEANINGS
from timix_jax.data.tokenizers.word_borders import WordBorders, word_borders
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
OWN = "timix_jax"  # key of what the tokenizer.json format has no place for


class Tokenizer:
    """Encoder of texts as [CLS] words [SEP] padding; immutable, so threads can share it.

    A vocabulary without a padding or mask token gets one appended, so that no word takes that role, unless the padding
    is given. A text that spells a special token, such as "[MASK]", is encoded as the characters that it is.

    Args:
      tokenizer: a tokenizer of the `tokenizers` library. Its own truncation and padding are not used. Its template, if
        it has one, says which tokens start and end a text; SigLIP's `words </s>` has no start.
      clean: what happens to a text first, a key of `cleaning.CLEANINGS`.
      pad_id: the id that pads, where published weights expect a certain one; nothing is appended then.

    Attributes:
      pad_id, sep_id: ids of padding and of the end of a text.
      cls_id: id of the start of a text; None if a text starts with its first word.
      mask_id: id of the mask; None if `pad_id` was given and the vocabulary has none.
      vocab_size: number of ids.

    Raises:
      UserError: the vocabulary has no token to start or end a text with.
    """

    def __init__(self, tokenizer: hf.Tokenizer, *, clean: str = "", pad_id: int | None = None):
        if clean not in CLEANINGS:
            raise UserError(f"the cleaning {clean!r} is unknown; this version has {[*CLEANINGS]}")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._clean, self._given_pad = tokenizer, clean, pad_id
        self._words = functools.lru_cache(_CACHED_TEXTS)(self._encode_words)
        self.pad_id: int = self._role_id("pad", "[PAD]") if pad_id is None else pad_id
        start, end = _template_ids(tokenizer)
        without_start = start is None and end is not None
        self.cls_id = None if without_start else self._role_id("cls") if start is None else start
        self.sep_id: int = self._role_id("sep") if end is None else end
        self.mask_id = self._find("mask") if pad_id is not None else self._role_id("mask", "[MASK]")
        roles = {self.cls_id, self.sep_id, self.mask_id}
        added = tokenizer.get_added_tokens_decoder()
        if pad_id is None or (pad_id in added and added[pad_id].special):
            roles.add(self.pad_id)  # otherwise it is a word as well, like CLIP's 0
        self._role_ids = frozenset(roles - {None})
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        if not 0 <= self.pad_id < self.vocab_size:
            raise UserError(f"pad_id={pad_id}: the vocabulary has ids 0 to {self.vocab_size - 1}")
        tokenizer.post_processor = self._template()

    @functools.cached_property
    def word_borders(self) -> WordBorders:
        """Where words begin among the pieces."""
        return word_borders(self._tokenizer, self.vocab_size)

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Return the ids that stand for no word, ascending: the roles, [UNK] and other special tokens."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        unknown = {vocabulary[name] for name in _UNKNOWN_NAMES if name in vocabulary}
        added = self._tokenizer.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        roles = {index for index in self._role_ids if index is not None}
        return tuple(sorted(roles | unknown | special | {self.pad_id}))

    def _find(self, role: str) -> int | None:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        return next((vocabulary[name] for name in _ROLE_NAMES[role] if name in vocabulary), None)

    def _role_id(self, role: str, append: str | None = None) -> int:
        found = self._find(role)
        if found is not None:
            return found
        if append is None:
            raise UserError(
                f"the vocabulary has no {role} token; it needs one of {', '.join(_ROLE_NAMES[role])}"
            )
        self._tokenizer.add_special_tokens([append])
        return self._tokenizer.get_vocab(with_added_tokens=True)[append]

    def _template(self) -> processors.TemplateProcessing:
        """Return the step by which other programs add the special tokens as `encode` does."""
        start, end = (
            "" if index is None else self._tokenizer.id_to_token(index)
            for index in (self.cls_id, self.sep_id)
        )
        tokens = {start: self.cls_id, end: self.sep_id}
        return processors.TemplateProcessing(
            single=[*([start] if start else []), "$A", end],
            pair=[*([start] if start else []), "$A", end, "$B:1", f"{end}:1"],
            special_tokens=[(name, index) for name, index in tokens.items() if index is not None],
        )

    @property
    def own(self) -> dict[str, Any]:
        """What the tokenizer.json format has no place for: `clean` and `pad_id`, as the arguments."""
        return {"clean": self._clean, "pad_id": self._given_pad}

    @property
    def kind(self) -> tuple[str, ...]:
        """How words are split, which says what a token's text means: the algorithm, and the marks inside words."""
        model = json.loads(self._tokenizer.to_str())["model"]
        marks = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        byte_letters = str("Ġ" in "".join(self._tokenizer.get_vocab()))
        return (str(model.get("type")), *(str(model.get(mark)) for mark in marks), byte_letters)

    def vocabulary(self) -> dict[str, int]:
        """Return text of a token → its id; the tokens with a role are `pad`, `cls`, `sep` and `mask` in brackets."""
        words = {
            text: index
            for text, index in self._tokenizer.get_vocab(with_added_tokens=True).items()
            if index not in self._role_ids
        }
        roles = {"pad": self.pad_id, "cls": self.cls_id, "sep": self.sep_id, "mask": self.mask_id}
        return words | {f"[{name}]": index for name, index in roles.items() if index is not None}

    def token(self, index: int) -> str:
        """Return the text of an id."""
        return str(self._tokenizer.id_to_token(index))

    def encode(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        """Return token ids int32 (n, max_tokens); a truncated text still ends with [SEP]."""
        if max_tokens < 2:
            raise UserError(f"max_tokens={max_tokens}: [CLS] and [SEP] take 2, words need more")
        ids = np.full((len(texts), max_tokens), self.pad_id, np.int32)
        first = [] if self.cls_id is None else [self.cls_id]
        for row, text in zip(ids, texts, strict=True):
            words = self._words(text)[: max_tokens - len(first) - 1]
            whole = [*first, *words, self.sep_id]
            row[: len(whole)] = whole
        return ids

    def single_tokens(self, words: Sequence[str]) -> tuple[int, ...]:
        """Return the ids of those words that are one token each, such as separators of phrases."""
        encoded = {word: self._words(word) for word in words}
        # A word that the vocabulary lacks may be one token too, "[UNK]".
        return tuple(
            ids[0]
            for word, ids in encoded.items()
            if len(ids) == 1 and self.decode(ids).strip() == word
        )

    def _encode_words(self, text: str) -> tuple[int, ...]:
        text = CLEANINGS[self._clean](text)
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
        """Return the text of ids (T,) up to the first [SEP], without special tokens."""
        listed = [int(index) for index in ids]
        start = (
            1 if listed[:1] == [self.cls_id] else 0
        )  # some vocabularies start and end with one token
        if self.sep_id in listed[start:]:
            listed = listed[: listed.index(self.sep_id, start)]
        words = [index for index in listed if index not in self._role_ids]
        return self._tokenizer.decode(words).strip()

    def to_json(self) -> str:
        """Return the whole tokenizer, for `from_json`: a tokenizer.json, in an envelope if that cannot hold it all."""
        text = self.to_tokenizer_json()
        if not self._clean and self._given_pad is None:
            return text
        return json.dumps({OWN: self.own, "tokenizer": json.loads(text)}, ensure_ascii=False)

    def to_tokenizer_json(self) -> str:
        """Return a tokenizer.json for other programs, with the template that adds the special tokens.

        It has no place for ftfy and HTML entities: apply `cleaning.CLEANINGS` to texts first where a model needs it.
        """
        return self._tokenizer.to_str()

    @staticmethod
    def from_json(text: str, *, pad_id: int | None = None, clean: str | None = None) -> "Tokenizer":
        """Read a tokenizer.json, or `to_json`'s output. Raises UserError if it is invalid.

        `pad_id` and `clean` are those of `Tokenizer`; None for the stored ones.
        """
        given = {"pad_id": pad_id, "clean": clean}
        try:
            tokenizer, own = _opened(text)
            return Tokenizer(
                hf.Tokenizer.from_str(tokenizer),
                **own | {name: value for name, value in given.items() if value is not None},
            )
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
        tokenizer, own = _opened(state)
        self.__init__(hf.Tokenizer.from_str(tokenizer), **own)  # type: ignore[misc]


def _template_ids(tokenizer: hf.Tokenizer) -> tuple[int | None, int | None]:
    """Return the ids that the tokenizer's own template puts before and after a text; None for none."""
    example = tokenizer.encode("a")
    ids, special = example.ids, example.special_tokens_mask
    if all(special):  # without a word there is no before and after
        return (ids[0], ids[-1]) if len(ids) == 2 else (None, None)
    return (ids[0] if special[0] else None), (ids[-1] if special[-1] else None)


def _opened(text: str) -> tuple[str, dict[str, Any]]:
    """Return the tokenizer.json and the arguments of `Tokenizer` that the envelope adds, if there is one."""
    if OWN not in text[:100]:
        return text, {}
    stored = json.loads(text)
    own = stored[OWN]
    return json.dumps(stored["tokenizer"]), {"clean": own["clean"], "pad_id": own["pad_id"]}
