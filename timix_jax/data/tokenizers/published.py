"""Published vocabularies: tokenizer.json, BERT's vocab.txt, the BPE of GPT-2 and CLIP, sentencepiece models."""

import difflib
import json

import tokenizers as hf
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers

from timix_jax.data.tokenizers.clip_bpe import load_clip_bpe, split_into_words
from timix_jax.data.tokenizers.sentencepiece_model import load_sentencepiece
from timix_jax.data.tokenizers.tokenizer import OWN, Tokenizer
from timix_jax.data.tokenizers.training import TRAINED, bert_tokenizer
from timix_jax.errors import UserError, error_prefix
from timix_jax.runtime.remote import as_path

_BOM = "\ufeff"  # the byte-order mark that some editors put before UTF-8


def load_tokenizer(
    path: epath.PathLike, *, pad_id: int | None = None, clean: str | None = None
) -> Tokenizer:
    """Load a published vocabulary.

    Args:
      path: one of
        `tokenizer.json`;
        `vocab.txt` of BERT: one token per line, lower-cased unless it has upper-case words;
        `bpe_simple_vocab_16e6.txt.gz` of CLIP: texts give the ids of open_clip, including its cleaning (ftfy, HTML
        entities, case) and its padding with 0;
        `vocab.json` next to its `merges.txt`, the BPE of GPT-2 or CLIP, without ftfy and HTML entities;
        `*.model` of sentencepiece: cleaned as for SigLIP (lower case, no punctuation), words and end piece only.
      pad_id: the id that pads, where published weights expect a certain one; nothing is then appended to the
        vocabulary. None for that of the vocabulary.
      clean: what happens to a text first, a key of `cleaning.CLEANINGS`; None for what the format implies.

    Raises:
      UserError: the file is missing or has none of these formats.

    **Example:** `load_tokenizer("bpe_simple_vocab_16e6.txt.gz").encode(["a diagram"], 77)`
    """
    path = as_path(path)
    if not path.is_file():
        close = difflib.get_close_matches(str(path), TRAINED, n=1)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"vocabulary {path} does not exist; {suggestion}"
            "give a vocab.txt or tokenizer.json, or train wordpiece or bpe"
        )
    with error_prefix(f"vocabulary {path}: "):
        if path.suffix == ".gz":
            pad_id = 0 if pad_id is None else pad_id
            return Tokenizer(load_clip_bpe(path), clean=_or(clean, "clip"), pad_id=pad_id)
        if path.suffix == ".model":
            tokenizer, found = load_sentencepiece(path)
            pad_id = found if pad_id is None else pad_id
            return Tokenizer(tokenizer, clean=_or(clean, "canonical"), pad_id=pad_id)
    if path.suffix == ".txt":
        return Tokenizer(_load_wordpiece(path), clean=clean or "", pad_id=pad_id)
    try:
        content = json.loads(path.read_text(encoding="utf-8").removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"vocabulary {path} is not JSON; give a vocab.txt or tokenizer.json"
        ) from error
    # The key "model" alone proves nothing: it is also a word in CLIP's vocabulary.
    if isinstance(content, dict) and isinstance(content.get("model", content.get(OWN)), dict):
        with error_prefix(f"vocabulary {path}: "):
            return Tokenizer.from_json(json.dumps(content), pad_id=pad_id, clean=clean)
    merges = path.with_name("merges.txt")
    if not isinstance(content, dict) or not merges.is_file():
        raise UserError(
            f"vocabulary {path} is not a tokenizer.json and has no merges.txt next to it"
        )
    with error_prefix(f"vocabulary {path}: "):
        return Tokenizer(_load_bpe(path, merges, content), clean=clean or "", pad_id=pad_id)


def _or(given: str | None, implied: str) -> str:
    return implied if given is None else given


def _lines(path: epath.Path) -> list[str]:
    """Split a vocabulary file at line feeds only: U+2028 and U+0085 can be tokens."""
    try:
        text = path.read_text(encoding="utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path} is not in UTF-8: {error}") from error
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")


def _load_wordpiece(path: epath.Path) -> hf.Tokenizer:
    tokens = _lines(path)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    missing = [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in vocabulary]
    if missing:
        raise UserError(f"vocabulary {path} has no {missing[0]}; it is not a BERT vocab.txt")
    cased = any(token != token.lower() for token in tokens if not token.startswith("["))
    return bert_tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"), lowercase=not cased)


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
        # The library does not accept None for "no suffix".
        model = models.BPE(vocabulary, merges, **({"end_of_word_suffix": "</w>"} if clip else {}))
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"it and its merges.txt disagree ({reason}); take both from the same model"
        ) from error
    tokenizer = hf.Tokenizer(model)
    if clip:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(hf.Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = split_into_words()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
