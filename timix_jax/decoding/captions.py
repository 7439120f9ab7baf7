"""Captions of images by a generative model, from an empty or a given prefix."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from timix_jax.data.tokenizers import Tokenizer
from timix_jax.decoding.length_penalty import LengthPenalty
from timix_jax.decoding.search import Found, Search
from timix_jax.errors import UserError
from timix_jax.models.generative_protocols import GenerativeModel

Array = jax.Array


def caption_search(
    tokenizer: Tokenizer,
    model: GenerativeModel,
    *,
    beams: int = 3,
    max_tokens: int = 0,
    min_tokens: int = 1,
    penalty: LengthPenalty | None = None,
) -> Search:
    """Return the search for captions in a tokenizer's vocabulary; no special token but the end is ever written.

    Args:
      tokenizer: that of the model.
      model: its decoder limits the length.
      beams: 1 for greedy decoding.
      max_tokens: longest caption, the end included; 0 for the longest that the decoder can write.
      min_tokens: shortest caption, the end included.
      penalty: of the length; None for the default.

    Raises:
      UserError: a value is out of range, or the vocabulary has no token to start with.
    """
    if tokenizer.cls_id is None:
        raise UserError(
            "captions start with [CLS], which this model's vocabulary lacks: it cannot write them"
        )
    longest = model.max_decoded
    if not 0 <= max_tokens <= longest:
        raise UserError(
            f"max_tokens={max_tokens}: the decoder writes at most {longest} (config.model.text.max_tokens); 0 for that"
        )
    return Search(
        start=tokenizer.cls_id,
        end=tokenizer.sep_id,
        pad=tokenizer.pad_id,
        beams=beams,
        max_tokens=max_tokens or longest,
        min_tokens=min_tokens,
        penalty=penalty or LengthPenalty(),
        banned=tuple(tokenizer.special_ids),
    )


def write_captions(
    model: GenerativeModel, params: Any, images: Array, prefix: Array, search: Search
) -> Found:
    """Write captions; a pure function for use under jit.

    Args:
      model: its pure functions.
      params: its parameters.
      images: (B, H, H, 3), uint8 or float in -1..1.
      prefix: int32 (B, P) first words of the captions, [CLS] [SEP] for none, which the search continues.
      search: from `caption_search`.
    """
    image = model.encode_image(params, model.embed_patches(params, images))
    text = model.encode_text(params, prefix)
    memory = model.image_memory(params, image.tokens)
    fused = model.fuse(params, text.tokens, text.mask, memory)
    read = model.decoder_memory(params, fused, text.mask)
    constants, cache = model.start_decoding(
        params, read, beams=search.beams, max_tokens=search.max_tokens
    )

    def step(tokens: Array, position: Array, cache: Any) -> tuple[Array, Any]:
        return model.decode_step(params, constants, tokens, position, cache)

    return search(step, cache, rows=len(images))


def encode_prefixes(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """Return the first words of captions, int32 (n, P) with [CLS] and [SEP]; P, at most `max_tokens`, fits the longest.

    P is a multiple of 8 but for the empty prefix, so that few lengths occur, each of which is compiled once.
    """
    rows = tokenizer.encode(texts, max_tokens)
    longest = int(np.max(np.sum(_until_end(rows, tokenizer.sep_id), axis=1), initial=1)) + 1
    return rows[:, : longest if longest == 2 else min(-(-longest // 8) * 8, max_tokens)]


def _until_end(rows: np.ndarray, end: int) -> np.ndarray:
    """Return bool (n, T): True before the first end token of each row, that at position 0 not counted."""
    ended = np.cumsum(rows[:, 1:] == end, axis=1) > 0
    return np.concatenate([np.ones((len(rows), 1), bool), ~ended], axis=1)


def caption_text(tokenizer: Tokenizer, prefix: np.ndarray, tokens: np.ndarray) -> str:
    """Return prefix and continuation as one text.

    Args:
      tokenizer: that of the model.
      prefix: int32 (P,) with [CLS] and [SEP].
      tokens: int32 (T,) from the search.
    """
    first = prefix[_until_end(prefix[None], tokenizer.sep_id)[0]]
    return tokenizer.decode([*first.tolist(), *tokens.tolist()])
