"""``config.model`` and ``config.mesh`` as arguments."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax.errors import UserError, located
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.parallel.mesh import make_mesh


def build_model(config: ConfigDict, *, vocab_size: int, pad_id: int) -> DualEncoder:
    """The model of ``config.model``."""
    m = config.model
    if m.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype={m.dtype!r} is unknown; use 'float32' or 'bfloat16'")
    v, t = m.image, m.text
    with located("config."):
        return DualEncoder(
            image=VitShape(v.size, v.patch, v.width, v.depth, v.heads, v.mlp_dim),
            text=TextShape(vocab_size, t.max_tokens, t.width, t.depth, t.heads, t.mlp_dim),
            embed_dim=m.embed_dim,
            tpp_layer=m.tpp_layer,
            pool=v.pool,
            text_pre_norm=t.pre_norm,
            pad_id=pad_id,
            temperature_init=m.temperature,
            temperature_range=tuple(m.temperature_range),
            act=m.act,
            dtype=jnp.dtype(m.dtype),
            scan=m.scan,
            remat=m.remat,
        )


def build_mesh(config: ConfigDict) -> Mesh:
    """The mesh of ``config.mesh`` over all devices."""
    with located("config."):
        return make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)


def abstract_params(model: DualEncoder) -> Any:
    """Shapes and dtypes of the parameters."""
    with located("config."):
        return jax.eval_shape(model.init, jax.random.key(0))
