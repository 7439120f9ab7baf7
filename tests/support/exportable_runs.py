"""Checkpoints of tiny models that published architectures can express, with weights that are all random."""

import jax
import jax.numpy as jnp
import numpy as np
from captions import CAPTIONS
from tiny_run import tiny_config

from timix_jax.checkpointing import Checkpointer
from timix_jax.config import complete, flatten
from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.training.build import build_model, read_settings

_PLAIN = {"mix__mixer": "none", "optim__ema": 0.0}
_CLIP = {
    "model__image__ln_pre": True,
    "model__image__eps": 1e-5,
    "model__text__pre_norm": True,
    "model__text__causal": True,
    "model__text__pool": "eot",
    "model__text__eps": 2e-5,
}
_SIGLIP = {
    "model__embed_dim": 16,
    "model__act": "gelu_tanh",
    "model__image__pool": "map",
    "model__image__projection": "none",
    "model__text__pre_norm": True,
    "model__text__pool": "last",
    "model__text__pad_mask": False,
    "model__text__projection": "biased",
    "contrastive__loss": "sigmoid",
}
# Shapes that the others do not have.
_LARGER = {
    "model__embed_dim": 20,
    "model__image__size": 24,
    "model__image__patch": 8,
    "model__image__width": 24,
    "model__image__depth": 3,
    "model__image__heads": 3,
    "model__image__mlp_dim": 56,
    "model__text__width": 32,
    "model__text__depth": 2,
    "model__text__heads": 4,
    "model__text__mlp_dim": 40,
}
RUNS = {
    "clip": {**_CLIP, "model__act": "quick_gelu"},
    "clip_larger": {**_CLIP, **_LARGER, "model__text__act": "gelu_tanh"},
    "clip_sigmoid": {**_CLIP, "contrastive__loss": "sigmoid", "model__text__pool": "last"},
    "bert": {"model__text__eps": 1e-7},
    "bert_mean": {**_LARGER, "model__text__pool": "mean", "model__text__act": "gelu_tanh"},
    "siglip": _SIGLIP,
    "siglip_larger": {
        **_SIGLIP,
        **_LARGER,
        **{"model__embed_dim": 24, "model__image__width": 24, "model__text__depth": 3},
    },
    "gap": {**_SIGLIP, "model__image__pool": "gap", "model__image__projection": "biased"},
}
"""Name → fields of `tiny_config`."""


def random_params(model, seed=0):
    """Return parameters of which none is a constant."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = jax.tree_util.keystr(path)
        if "temperature" in name:
            return np.float32(np.log(0.03))
        values = rng.standard_normal(shape.shape)
        if "scale" in name:
            return (1 + 0.2 * values).astype(np.float32)
        fan = np.prod(shape.shape[-2:-1]) if len(shape.shape) > 1 else 10
        return (values / np.sqrt(max(fan, 1))).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw, shapes))


def save_run(workdir, name, seed=0, **overrides):
    """Write a checkpoint of `RUNS[name]` and return its working folder."""
    config = complete(tiny_config(**{**_PLAIN, **RUNS[name], **overrides}))
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    model = build_model(
        read_settings(config),
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        eot_id=tokenizer.sep_id,
    )
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        meta = {"config": flatten(config), "tokenizer": tokenizer.to_json()}
        checkpointer.save(1, {"params": random_params(model, seed)}, meta)
    return workdir
