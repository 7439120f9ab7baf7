"""Cleaning of texts before they are split into tokens, as published models expect it."""

import html
import string
from collections.abc import Callable, Mapping
from types import MappingProxyType

import ftfy

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def repair(text: str) -> str:
    """Undo wrong decoding, curly quotes and ligatures (ftfy), and HTML entities, also doubly escaped ones."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def clip_text(text: str) -> str:
    """Clean as CLIP does: repaired, white space collapsed, lower-cased."""
    return " ".join(repair(text).split()).lower()


def canonical_text(text: str) -> str:
    """Clean as SigLIP does: repaired, no ASCII punctuation (`_` is a space), white space collapsed, lower-cased."""
    words = repair(text).strip().replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(words.lower().split())


CLEANINGS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"": lambda text: text, "clip": clip_text, "canonical": canonical_text}
)
"""Name, as stored with a tokenizer → function; the empty name changes nothing."""
