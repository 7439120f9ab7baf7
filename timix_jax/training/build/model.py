"""`config.model` and `config.mesh` as arguments."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.models import field_names, model_class
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.protocols import ImageTextModel
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh


def build_model(
    config: ConfigDict, *, vocab_size: int, pad_id: int, layout: Layout | None = None
) -> ImageTextModel:
    """Build the model of `config.model`, with a learned bias for the sigmoid loss.

    Args:
      config: a complete configuration.
      vocab_size, pad_id: the tokenizer's.
      layout: the mesh and its rules, to which the model's declared axes are added; None for one device.

    Raises:
      UserError: an unknown model, a value out of range, or a setting that would have no effect on this model.
    """
    m = config.model
    if m.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype={m.dtype!r} is unknown; use 'float32' or 'bfloat16'")
    with error_prefix("config."):
        kind: Any = model_class(m.name)
    if kind is DualEncoder:
        place, settings = "config.", _dual_encoder_settings(config, vocab_size)
    else:
        place, settings = f"config.model.options.{m.name}: ", m.options[m.name].to_dict()
    fields = field_names(kind)
    provided = _run_values(config, vocab_size=vocab_size, pad_id=pad_id)
    settings |= {name: value for name, value in provided.items() if name in fields}
    with error_prefix(place):
        model = kind(**settings)
        _check_effects(config, model, fields)
        if layout is None or "layout" not in fields:
            return model
        return dataclasses.replace(model, layout=layout.with_axes(model.parameter_axes()))


def _run_values(config: ConfigDict, *, vocab_size: int, pad_id: int) -> dict[str, Any]:
    """Return what a run provides to models with such fields (`models.RUN_FIELDS`, except the layout)."""
    m = config.model
    return {
        "image_size": m.image.size,
        "max_tokens": m.text.max_tokens,
        "vocab_size": vocab_size,
        "pad_id": pad_id,
        "embed_dim": m.embed_dim,
        "temperature_init": m.temperature,
        "temperature_range": tuple(m.temperature_range),
        "logit_bias_init": m.logit_bias if config.contrastive.loss == "sigmoid" else None,
        "patch_dropout": m.image.patch_dropout,
        "tpp_layer": m.tpp_layer,
        "act": m.act,
        "dtype": jnp.dtype(m.dtype),
        "scan": m.scan,
        "remat": m.remat,
        "microbatches": config.train.accumulate,
    }


def _dual_encoder_settings(config: ConfigDict, vocab_size: int) -> dict[str, Any]:
    v, t = config.model.image, config.model.text
    return {
        "image": VitShape(v.size, v.patch, v.width, v.depth, v.heads, v.mlp_dim, v.stem),
        "text": TextShape(vocab_size, t.max_tokens, t.width, t.depth, t.heads, t.mlp_dim),
        "pool": v.pool,
        "text_pre_norm": t.pre_norm,
    }


def _check_effects(config: ConfigDict, model: ImageTextModel, fields: set[str]) -> None:
    """Raise a UserError for a setting that changes training but not this model."""
    for name, field, value, neutral in (
        ("patch_dropout", "model.image.patch_dropout", config.model.image.patch_dropout, 0.0),
        ("microbatches", "train.accumulate", config.train.accumulate, 1),
        ("dtype", "model.dtype", config.model.dtype, "float32"),
        ("logit_bias_init", "contrastive.loss", config.contrastive.loss, "softmax"),
    ):
        if name not in fields and value != neutral:
            raise UserError(
                f"config.{field}={value!r} needs a model with a field {name!r}, which {type(model).__name__} lacks: set"
                f" it to {neutral!r}, or choose another config.model.name"
            )


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


def abstract_params(model: ImageTextModel) -> Any:
    """Return the shapes and dtypes of the parameters."""
    with error_prefix("config."):
        return jax.eval_shape(model.init, jax.random.key(0))
