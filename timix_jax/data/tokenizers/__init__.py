"""Tokenizers: captions to token ids, with a vocabulary trained on the captions or loaded.

Imports nothing else from `data`.

**Example:**

    tokenizer = train_tokenizer(captions, kind="wordpiece", vocab_size=4000)
    tokens = tokenizer.encode(["a lemon and two skis"], max_tokens=16)  # int32 (1, 16)
    tokenizer == Tokenizer.from_json(tokenizer.to_json())
"""

from timix_jax.data.tokenizers.published import load_tokenizer
from timix_jax.data.tokenizers.tokenizer import Tokenizer
from timix_jax.data.tokenizers.training import TRAINED, train_tokenizer

__all__ = ["TRAINED", "Tokenizer", "load_tokenizer", "train_tokenizer"]
