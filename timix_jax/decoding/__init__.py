"""Decoding: the search for the most probable texts under a step function, compiled as one loop.

`search.py` knows no model: greedy decoding and beam search over any step function. `captions.py` runs it over a
generative model's decoder. May import models.protocols and data.tokenizers; evaluators and inference use it.
"""

from timix_jax.decoding.captions import (
    caption_search,
    caption_text,
    encode_prefixes,
    write_captions,
)
from timix_jax.decoding.length_penalty import PENALTIES, LengthPenalty
from timix_jax.decoding.search import Found, Search

__all__ = [
    "PENALTIES",
    "Found",
    "LengthPenalty",
    "Search",
    "caption_search",
    "caption_text",
    "encode_prefixes",
    "write_captions",
]
