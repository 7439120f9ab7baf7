"""CLIP's byte-pair encoding: open_clip's file of merges, and how texts are split into words."""

import gzip
import zlib
from typing import Any

import tokenizers as hf
from etils import epath
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from timix_jax.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"

_WORD_END = "</w>"
# Without regard to case, as contractions may hold the long s.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MAX_MERGES = 49_152 - 256 - 2  # the file lists more than CLIP uses
_MAX_BYTES = 1 << 26  # of the unpacked file, against forged ones


def load_clip_bpe(path: epath.Path) -> hf.Tokenizer:
    """Read `bpe_simple_vocab_16e6.txt.gz`: a line of header, then a merge of two tokens per line.

    The ids are those of 256 letters that stand for bytes, of the same at the end of a word, of the merges in the order
    of the file, and of the start and the end of a text.

    Raises:
      UserError: the file is not gzipped text of this kind.
    """
    letters = _byte_letters()
    tokens = letters + [letter + _WORD_END for letter in letters]
    known = set(tokens)
    merges = []
    for number, line in enumerate(_lines(path)[1 : _MAX_MERGES + 1], start=2):
        pair = tuple(line.split())
        if len(pair) != 2 or not known.issuperset(pair):
            raise UserError(f"line {number} is not a merge of two earlier tokens: {line[:40]!r}")
        merges.append((pair[0], pair[1]))
        tokens.append("".join(pair))
        known.add(tokens[-1])
    if not merges:
        raise UserError("it has no merges; give open_clip's bpe_simple_vocab_16e6.txt.gz")
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    tokenizer = hf.Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=_WORD_END))
    # Texts come cleaned (`cleaning.clip_text`); these two steps serve other programs that read the file.
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(hf.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = split_into_words()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(_WORD_END, " ")])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (START, END)])
    return tokenizer


def split_into_words() -> Any:
    """Return the step that splits a cleaned text into words, digits and runs of other characters, as bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(hf.Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_letters() -> list[str]:
    """Return a printable letter for each byte: first those bytes that are printable in Latin-1, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _lines(path: epath.Path) -> list[str]:
    try:
        with path.open("rb") as file, gzip.open(file) as unpacked:
            text = unpacked.read(_MAX_BYTES).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"it is not gzipped text ({reason}); give open_clip's bpe_simple_vocab_16e6.txt.gz"
        ) from error
    return text.removesuffix("\n").split("\n")
