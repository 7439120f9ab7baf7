"""`config.model`: the model and the shapes of its parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.models import contains_towers, field_names, model_class
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.protocols import ImageTextModel
from timix_jax.models.text import TextShape
from timix_jax.models.transformer import Remat
from timix_jax.models.variants import ImagePool, ImageVariant, Projection, TextPool, TextVariant
from timix_jax.models.vit import VitShape
from timix_jax.parallel.layout import Layout

if TYPE_CHECKING:
    from timix_jax.training.build.settings import Settings


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """`config.model.image`: the image tower; `size` and `patch` in pixels."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    pool: ImagePool
    patch_dropout: float
    stem: str
    act: str
    eps: float
    ln_pre: bool
    projection: Projection


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """`config.model.text`: the text tower."""

    max_tokens: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    pre_norm: bool
    act: str
    eps: float
    causal: bool
    pool: TextPool
    pad_mask: bool
    projection: Projection
    dropout: float


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """`config.model`; `temperature` and `logit_bias` are initial values of learned parameters.

    Attributes:
      name: a key of `models.MODELS`.
      options: model → its settings, for those whose settings are not the fields here.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]]
    embed_dim: int
    tpp_layer: int
    temperature: float
    temperature_range: tuple[float, float]
    logit_bias: float
    act: str
    dtype: str
    scan: bool
    remat: Remat
    image: ImageSettings
    text: TextSettings

    @classmethod
    def read(cls, config: ConfigDict) -> ModelSettings:
        """Read the group."""
        fields = config.model.to_dict()
        image, text = ImageSettings(**fields.pop("image")), TextSettings(**fields.pop("text"))
        return cls(image=image, text=text, **fields)


def build_model(
    config: Settings,
    *,
    vocab_size: int,
    pad_id: int,
    eot_id: int = 0,
    layout: Layout | None = None,
) -> ImageTextModel:
    """Build the model of `config.model`, with a learned bias for the sigmoid loss.

    Args:
      config: from `read_settings`.
      vocab_size, pad_id, eot_id: the tokenizer's; `eot_id` ends a caption.
      layout: the mesh and its rules, to which the model's declared axes are added; None for one device.

    Raises:
      UserError: an unknown model, a value out of range, or a setting that would have no effect on this model.
    """
    m = config.model
    if m.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype={m.dtype!r} is unknown; use 'float32' or 'bfloat16'")
    with error_prefix("config."):
        kind: Any = model_class(m.name)
    provided = _run_values(config, vocab_size=vocab_size, pad_id=pad_id, eot_id=eot_id)
    if kind is DualEncoder:
        return _on_mesh(_dual_encoder(config, provided, vocab_size), layout)
    fields, options = field_names(kind), dict(m.options[m.name])
    if contains_towers(m.name):
        options["dual"] = _dual_encoder(config, provided, vocab_size)
    options |= {name: value for name, value in provided.items() if name in fields}
    with error_prefix(f"config.model.options.{m.name}: "):
        model = kind(**options)
        if "dual" not in options:
            _check_effects(config, model, fields)
        return _on_mesh(model, layout)


def _dual_encoder(config: Settings, provided: Mapping[str, Any], vocab_size: int) -> DualEncoder:
    """Build the dual encoder that is the model, or that the model contains."""
    fields = field_names(DualEncoder)
    given = {name: value for name, value in provided.items() if name in fields}
    with error_prefix("config."):
        dual = DualEncoder(**_dual_encoder_settings(config, vocab_size), **given)
        _check_effects(config, dual, fields)
        return dual


def _on_mesh(model: Any, layout: Layout | None) -> Any:
    """Give the layout with the model's declared axes to the model, or to the dual encoder in it."""
    fields = {field.name for field in dataclasses.fields(model)}
    if layout is None or not fields & {"layout", "dual"}:
        return model
    layout = layout.with_axes(model.parameter_axes())
    if "dual" in fields:
        return dataclasses.replace(model, dual=dataclasses.replace(model.dual, layout=layout))
    return dataclasses.replace(model, layout=layout)


def _run_values(config: Settings, *, vocab_size: int, pad_id: int, eot_id: int) -> dict[str, Any]:
    """Return what a run provides to models with such fields (`models.RUN_FIELDS`, except the layout)."""
    m = config.model
    return {
        "image_size": m.image.size,
        "max_tokens": m.text.max_tokens,
        "vocab_size": vocab_size,
        "pad_id": pad_id,
        "eot_id": eot_id,
        "embed_dim": m.embed_dim,
        "temperature_init": m.temperature,
        "temperature_range": m.temperature_range,
        "logit_bias_init": m.logit_bias if config.contrastive.loss == "sigmoid" else None,
        "patch_dropout": m.image.patch_dropout,
        "tpp_layer": m.tpp_layer,
        "word_projection": config.loss.terms["cmc"]["weight"] > 0,
        "act": m.act,
        "dtype": jnp.dtype(m.dtype),
        "scan": m.scan,
        "remat": m.remat,
        "microbatches": config.train.accumulate,
    }


def _dual_encoder_settings(config: Settings, vocab_size: int) -> dict[str, Any]:
    v, t = config.model.image, config.model.text
    return {
        "image": VitShape(v.size, v.patch, v.width, v.depth, v.heads, v.mlp_dim, v.stem),
        "text": TextShape(vocab_size, t.max_tokens, t.width, t.depth, t.heads, t.mlp_dim),
        "pool": v.pool,
        "text_pre_norm": t.pre_norm,
        "text_dropout": t.dropout,
        "image_variant": ImageVariant(v.act, v.eps, v.ln_pre, v.projection),
        "text_variant": TextVariant(t.act, t.eps, t.causal, t.pool, t.pad_mask, t.projection),
    }


def _check_effects(config: Settings, model: ImageTextModel, fields: set[str]) -> None:
    """Raise a UserError for a setting that changes training but not this model."""
    for name, field, value, neutral in (
        ("patch_dropout", "model.image.patch_dropout", config.model.image.patch_dropout, 0.0),
        ("text_dropout", "model.text.dropout", config.model.text.dropout, 0.0),
        ("microbatches", "train.accumulate", config.train.accumulate, 1),
        ("dtype", "model.dtype", config.model.dtype, "float32"),
        ("logit_bias_init", "contrastive.loss", config.contrastive.loss, "softmax"),
    ):
        if name not in fields and value != neutral:
            raise UserError(
                f"config.{field}={value!r} needs a model with a field {name!r}, which {type(model).__name__} lacks: set"
                f" it to {neutral!r}, or choose another config.model.name"
            )


def abstract_params(model: ImageTextModel) -> Any:
    """Return the shapes and dtypes of the parameters."""
    one_device: Any = model.on_one_device()  # models are frozen dataclasses, which have a hash
    with error_prefix("config."):
        return _shapes(one_device)


@functools.lru_cache(maxsize=16)
def _shapes(model: ImageTextModel) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0))
