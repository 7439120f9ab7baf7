"""Hugging Face's ViTModel, and DeiT without distillation, which it stores as one: an image tower."""

from collections.abc import Mapping
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import huggingface as hf
from timix_jax.pretrained.layouts.base import (
    Contents,
    Shapes,
    image_shape,
    position_leaves,
    stated_or_given,
)
from timix_jax.pretrained.leaves import (
    Leaf,
    Leaves,
    attention_out,
    count_layers,
    linear,
    norm,
    patch_kernel,
    separate,
    stacked,
)
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "Hugging Face's ViTModel"

_KERNEL = "embeddings.patch_embeddings.projection.weight"
_PREFIXES = ("", "vit.", "deit.")
_FIELD = "model.image.heads"


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for ViT's names, with or without a prefix."""
    return any(f"{prefix}{_KERNEL}" in shapes for prefix in _PREFIXES)


def _block(at: str, heads: int) -> Leaves:
    """Return a block by the names of the files."""
    return {
        **norm(f"{at}layernorm_before", "norm1"),
        **separate(f"{at}attention.attention", ("query", "key", "value"), heads),
        **attention_out(f"{at}attention.output.dense", heads),
        **norm(f"{at}layernorm_after", "norm2"),
        **linear(f"{at}intermediate.dense", "mlp/up"),
        **linear(f"{at}output.dense", "mlp/down"),
    }


def _module_block(at: str, heads: int) -> Leaves:
    """Return a block by the names of the modules since transformers 5."""
    return {
        **norm(f"{at}layernorm_before", "norm1"),
        **separate(f"{at}attention", ("q_proj", "k_proj", "v_proj"), heads),
        **attention_out(f"{at}attention.o_proj", heads),
        **norm(f"{at}layernorm_after", "norm2"),
        **linear(f"{at}mlp.fc1", "mlp/up"),
        **linear(f"{at}mlp.fc2", "mlp/down"),
    }


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe the image tower; the projection stays fresh."""
    prefix = next(p for p in _PREFIXES if f"{p}{_KERNEL}" in shapes)
    if f"{prefix}embeddings.distillation_token" in shapes:
        raise UserError(
            "is a distilled DeiT, whose second token the image tower does not have; take one without distillation"
        )
    stated = hf.variant(files.json("config.json"), "image", act="gelu", eps=1e-12, heads=12)
    heads = stated_or_given(stated[_FIELD], run, _FIELD)
    modules = f"{prefix}layers.0.layernorm_before.weight" in shapes
    at = f"{prefix}layers.{{}}." if modules else f"{prefix}encoder.layer.{{}}."
    block = (_module_block if modules else _block)(at, heads)
    layers = count_layers(shapes, f"{at}layernorm_before.weight")
    table = f"{prefix}embeddings.position_embeddings"
    kernel = f"{prefix}{_KERNEL}"
    leaves = {
        "patch_embed/kernel": Leaf((kernel,), patch_kernel),
        "patch_embed/bias": Leaf((f"{prefix}embeddings.patch_embeddings.projection.bias",)),
        **position_leaves(Leaf((f"{prefix}embeddings.cls_token",)), table),
        **stacked(block, layers),
        **norm(f"{prefix}layernorm", "norm"),
    }
    up = block["mlp/up/kernel"].names[0].format(0)
    settings = {
        **stated,
        **image_shape(shapes[kernel], shapes[table][1] - 1),
        _FIELD: heads,
        "model.image.depth": layers,
        "model.image.mlp_dim": shapes[up][0],
        "model.image.pool": "cls",
        "model.image.ln_pre": False,
    }
    return Contents(
        settings,
        image=leaves,
        pixels=hf.pixels(files),
        unread=rf"{prefix}embeddings\.mask_token$",
        scopes=tuple(f"{prefix}{name}" for name in ("embeddings.", "encoder.", "layers.")),
    )
