"""`config.model`: the model and the shapes of its parameters."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.protocols import ImageTextModel
from timix_jax.models.text import TextShape
from timix_jax.models.transformer import Remat
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
    pool: Literal["cls", "gap"]
    patch_dropout: float
    stem: str


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """`config.model.text`: the text tower."""

    max_tokens: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    pre_norm: bool


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """`config.model`; `temperature` and `logit_bias` are initial values of learned parameters."""

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
    config: Settings, *, vocab_size: int, pad_id: int, layout: Layout | None = None
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
            temperature_range=m.temperature_range,
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


def abstract_params(model: ImageTextModel) -> Any:
    """Return the shapes and dtypes of the parameters."""
    with error_prefix("config."):
        return jax.eval_shape(model.init, jax.random.key(0))
