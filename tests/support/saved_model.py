"""A checkpoint of a tiny model with random weights, for what starts from one: no training needed."""

from pathlib import Path

from captions import CAPTIONS
from tiny_model import make_params
from tiny_run import tiny_config

from timix_jax.checkpointing import Checkpointer
from timix_jax.config import complete, flatten
from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.training.build import build_model, read_settings


def save_model(workdir: Path, seed: int = 0, step: int = 3, **overrides) -> Path:
    """Write step `step` of a run that never was, and return its working folder.

    Its moving average has other weights; `overrides` as in `tiny_config`.
    """
    config = complete(tiny_config(**overrides))
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    model = build_model(
        read_settings(config), vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id
    )
    state = {"params": make_params(model, seed), "ema_params": make_params(model, seed + 1)}
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        meta = {"config": flatten(config), "tokenizer": tokenizer.to_json()}
        checkpointer.save(step, state, meta)
    return workdir
