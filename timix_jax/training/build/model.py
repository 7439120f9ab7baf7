"""`config.model` and `config.mesh` as arguments."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh


def build_model(
    config: ConfigDict, *, vocab_size: int, pad_id: int, layout: Layout | None = None
) -> DualEncoder:
    """Build the model of `config.model`, with a learned bias for the sigmoid loss.

    Args:
      vocab_size, pad_id: the tokenizer's.
      layout: the mesh and its rules, to which the model's declared axes are added; None for one device.
    """
    m = config.model
    if m.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype={m.dtype!r} is unknown; use 'float32' or 'bfloat16'")
    v, t = m.image, m.text
    with error_prefix("config."):
        model = DualEncoder(
            image=VitShape(v.size, v.patch, v.width, v.depth, v.heads, v.mlp_dim, v.stem),
            text=TextShape(vocab_size, t.max_tokens, t.width, t.depth, t.heads, t.mlp_dim),
            embed_dim=m.embed_dim,
            tpp_layer=m.tpp_layer,
            pool=v.pool,
            patch_dropout=v.patch_dropout,
            text_pre_norm=t.pre_norm,
            pad_id=pad_id,
            temperature_init=m.temperature,
            temperature_range=tuple(m.temperature_range),
            logit_bias_init=m.logit_bias if config.contrastive.loss == "sigmoid" else None,
            act=m.act,
            dtype=jnp.dtype(m.dtype),
            scan=m.scan,
            remat=m.remat,
            microbatches=config.train.accumulate,
        )
        if layout is None:
            return model
        return dataclasses.replace(model, layout=layout.with_axes(model.parameter_axes()))


def build_layout(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Build the mesh and the sharding rules of `config.mesh` over all devices, or those given."""
    m = config.mesh
    for rule in m.rules:
        if not (
            isinstance(rule, (tuple, list))
            and len(rule) == 2
            and isinstance(rule[0], str)
            and isinstance(rule[1], (tuple, list))
        ):
            raise UserError(
                f"config.mesh.rules: {rule!r} is not (pattern, axes); write "
                "(('mlp/up/kernel', (None, 'fsdp', 'tensor')),)"
            )
    rules = tuple(
        (pattern, tuple(tuple(axis) if isinstance(axis, list) else axis for axis in axes))
        for pattern, axes in m.rules
    )
    with error_prefix("config."):
        mesh = make_mesh(
            None if devices is None else list(devices), data=m.data, fsdp=m.fsdp, tensor=m.tensor
        )
    return Layout(mesh, rules, m.small)


def abstract_params(model: DualEncoder) -> Any:
    """The shapes and dtypes of the parameters."""
    with error_prefix("config."):
        return jax.eval_shape(model.init, jax.random.key(0))
