"""open_clip's SigLIP: timm's ViT with an attention pooling head, and open_clip's transformer for texts."""

import re
from collections.abc import Mapping
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import open_clip_towers as towers
from timix_jax.pretrained.layouts.base import (
    UNSTATED,
    Contents,
    Shapes,
    image_shape,
    pair_scalars,
    stated_or_given,
)
from timix_jax.pretrained.leaves import (
    Leaf,
    Leaves,
    attention_in,
    attention_out,
    count_layers,
    linear,
    norm,
    patch_kernel,
    split_heads,
    stacked,
)
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "open_clip's SigLIP"

_AT = "visual.trunk."
_POOL = f"{_AT}attn_pool."
# What timm's names of these trunks stand for: heads, and where the activation is the tanh form.
_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip(_gap)?_(\d+)$")
_HEADS = {"base": 12, "large": 16, "so400m": 16, "giantopt": 16}


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for the names of timm's ViT below `visual.trunk.`."""
    return f"{_AT}patch_embed.proj.weight" in shapes


def _trunk(config: dict[str, Any] | None) -> tuple[Any, Any]:
    """Return (activation, heads) of the trunk that the configuration names."""
    name = (config or {}).get("vision_cfg", {}).get("timm_model_name", "")
    match = _NAME.match(name)
    if match is None:
        return UNSTATED, UNSTATED
    kind, patch, _, size = match.groups()
    tanh = (
        kind == "giantopt"
        or (kind, patch) in (("base", "32"), ("so400m", "16"))
        or (kind, size) == ("large", "512")
    )
    return "gelu_tanh" if tanh else "gelu", _HEADS[kind]


def _block(heads: int) -> Leaves:
    at = f"{_AT}blocks.{{}}."
    return {
        **norm(f"{at}norm1", "norm1"),
        **norm(f"{at}norm2", "norm2"),
        **attention_in((f"{at}attn.qkv.weight",), (f"{at}attn.qkv.bias",), heads),
        **attention_out(f"{at}attn.proj", heads),
        **linear(f"{at}mlp.fc1", "mlp/up"),
        **linear(f"{at}mlp.fc2", "mlp/down"),
    }


def _pool(heads: int) -> Leaves:
    return {
        "attention_pool/probe": Leaf((f"{_POOL}latent",)),
        "attention_pool/query/kernel": Leaf(
            (f"{_POOL}q.weight",), lambda m: split_heads(heads)(m)[:, 0]
        ),
        "attention_pool/query/bias": Leaf((f"{_POOL}q.bias",), lambda b: b.reshape(heads, -1)),
        "attention_pool/kv/kernel": Leaf((f"{_POOL}kv.weight",), split_heads(heads)),
        "attention_pool/kv/bias": Leaf((f"{_POOL}kv.bias",), lambda b: b.reshape(2, heads, -1)),
        **attention_out(f"{_POOL}proj", heads, "attention_pool/out"),
        **norm(f"{_POOL}norm", "attention_pool/norm"),
        **linear(f"{_POOL}mlp.fc1", "attention_pool/mlp/up"),
        **linear(f"{_POOL}mlp.fc2", "attention_pool/mlp/down"),
    }


def _image_tower(
    shapes: Shapes, config: dict[str, Any] | None, run: Mapping[str, Any]
) -> tuple[dict[str, Any], Leaves]:
    if f"{_AT}cls_token" in shapes:
        raise UserError("has a timm trunk with a [CLS] token; of timm, only SigLIP's ViT is read")
    act, stated = _trunk(config)
    heads = stated_or_given(stated, run, "model.image.heads")
    layers = count_layers(shapes, f"{_AT}blocks.{{}}.norm1.weight")
    projected, pooled = "visual.head.proj.weight" in shapes, f"{_POOL}latent" in shapes
    settings = {
        **image_shape(shapes[f"{_AT}patch_embed.proj.weight"], shapes[f"{_AT}pos_embed"][1]),
        "model.image.depth": layers,
        "model.image.heads": heads,
        "model.image.mlp_dim": shapes[f"{_AT}blocks.0.mlp.fc1.weight"][0],
        "model.image.pool": "map" if pooled else "gap",
        "model.image.ln_pre": False,
        "model.image.projection": "linear" if projected else "none",
        "model.image.act": act,
        "model.image.eps": 1e-6,
    }
    projection = {"projection/kernel": linear("visual.head.proj", "x")["x/kernel"]}
    leaves = {
        "patch_embed/kernel": Leaf((f"{_AT}patch_embed.proj.weight",), patch_kernel),
        "patch_embed/bias": Leaf((f"{_AT}patch_embed.proj.bias",)),
        "pos_embed": Leaf((f"{_AT}pos_embed",)),
        **stacked(_block(heads), layers),
        **norm(f"{_AT}norm", "norm"),
        **(_pool(heads) if pooled else {}),
        **(projection if projected else {}),
    }
    return settings, leaves


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe both towers, the temperature and the bias."""
    config = towers.model_config(files)
    image_settings, image = _image_tower(shapes, config, run)
    text_settings, text = towers.text_tower(shapes, config, run)
    width = image_settings["model.image.width"]
    space = shapes["visual.head.proj.weight"][0] if "projection/kernel" in image else width
    return Contents(
        {**image_settings, **text_settings, "model.embed_dim": space},
        image,
        text,
        pair_scalars(shapes, "logit_scale", "logit_bias"),
        towers.pixels(files),
        unread=r"(text\.)?attn_mask$",
        scopes=("visual.", "text.", "transformer."),
    )
