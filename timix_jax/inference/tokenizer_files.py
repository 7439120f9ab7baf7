"""The tokenizer that lies next to published weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from timix_jax.data.tokenizers import Tokenizer, load_tokenizer
from timix_jax.data.tokenizers.tokenizer import OWN
from timix_jax.errors import UserError
from timix_jax.pretrained.weight_files import WeightFiles

CONFIG_FILE = "tokenizer_config.json"

_SENTENCEPIECE = ("spiece.model", "sentencepiece.model", "tokenizer.model")
_OTHERS = ("tokenizer.json", "bpe_simple_vocab_16e6.txt.gz", "vocab.json", "vocab.txt")


def find_tokenizer(
    files: WeightFiles, settings: Mapping[str, Any], given: epath.PathLike | None = None
) -> Tokenizer:
    """Return the tokenizer that weights were trained with.

    Texts are cleaned and padded as the weights count on: CLIP's with ftfy and HTML entities, padded with 0; SigLIP's
    without punctuation; BERT's with [PAD].

    Args:
      files: the weights, next to which the tokenizer lies.
      settings: those of the weights, which tell the three kinds apart.
      given: a vocabulary file to use instead.

    Raises:
      UserError: there is none.
    """
    clip, siglip = settings["model.text.causal"], not settings.get("model.text.pad_mask", True)
    path = Path(given) if given else _beside(files.folder, siglip and not clip)
    stored = (files.json(CONFIG_FILE) or {}).get(OWN)
    if stored is not None and not given:
        return load_tokenizer(path, pad_id=stored["pad_id"], clean=stored["clean"])
    if clip:
        return load_tokenizer(path, pad_id=0, clean="clip")
    if siglip:
        pad_id = None if path.suffix == ".model" else _stated_pad(files, path)
        return load_tokenizer(path, pad_id=pad_id, clean="canonical")
    return load_tokenizer(path)


def _beside(folder: Path, siglip: bool) -> Path:
    names = (*_SENTENCEPIECE, *_OTHERS) if siglip else (*_OTHERS, *_SENTENCEPIECE)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"has no tokenizer next to it ({', '.join(names)}): put one there, or give tokenizer='FILE'; CLIP's is"
        " bpe_simple_vocab_16e6.txt.gz of the package open_clip_torch"
    )


def _stated_pad(files: WeightFiles, path: Path) -> int | None:
    """Return the id of the token that pads by the tokenizer's configuration files; None if they do not say."""
    for name in (CONFIG_FILE, "special_tokens_map.json"):
        token = (files.json(name) or {}).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
            return next((entry["id"] for entry in added if entry["content"] == token), None)
    return None
