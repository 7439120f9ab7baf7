"""Where words begin among the pieces of a vocabulary."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tokenizers as hf

_WORD_STARTS = ("Ġ", "▁")  # how byte-level BPE and sentencepiece mark the first piece of a word


class WordBorders(NamedTuple):
    """What the pieces of a vocabulary say about words; a word begins where neither piece speaks against it.

    Attributes:
      continues: bool (V,), True for a piece that belongs to the word before it, such as WordPiece's `##ing`.
      unfinished: bool (V,), True for a piece after which its word goes on: of CLIP's, those without `</w>`.
    """

    continues: np.ndarray
    unfinished: np.ndarray


def word_borders(tokenizer: hf.Tokenizer, size: int) -> WordBorders:
    """Return the borders of words in a vocabulary of `size` ids; special tokens are words of their own."""
    model = json.loads(tokenizer.to_str())["model"]
    added = tokenizer.get_added_tokens_decoder()
    pieces = tokenizer.get_vocab(with_added_tokens=True).items()
    borders = WordBorders(np.zeros(size, bool), np.zeros(size, bool))
    ordinary = {piece: index for piece, index in pieces if index not in added}
    inner, suffix = _inner_prefix(model), model.get("end_of_word_suffix")
    marks = tuple(m for m in _WORD_STARTS if any(piece.startswith(m) for piece in ordinary))
    for piece, index in ordinary.items():
        if inner:
            borders.continues[index] = piece.startswith(inner)
        elif suffix:
            borders.unfinished[index] = not piece.endswith(suffix)
        elif marks:
            borders.continues[index] = not piece.startswith(marks)
    return borders


def _inner_prefix(model: Mapping[str, Any]) -> str:
    """Return how pieces inside a word begin; empty if the vocabulary does not mark them."""
    return str(model.get("continuing_subword_prefix") or "")
