"""big_vision's two towers (SigLIP, LiT with its own text tower) as .npz."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timix_jax.pretrained.layouts import flax
from timix_jax.pretrained.layouts.base import Contents, Shapes, pair_scalars
from timix_jax.pretrained.leaves import Leaf, Leaves, count_layers, stacked
from timix_jax.pretrained.pixels import KNOWN_PIXELS
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "big_vision's SigLIP"

_MODULES = ("MultiHeadDotProductAttention_0", "MlpBlock_0", ("LayerNorm_0", "LayerNorm_1"))
# The code states these for all weights: jax.nn.gelu's tanh form, Flax's epsilon.
VARIANT = {"act": "gelu_tanh", "eps": 1e-6}


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for both towers, below `params/` or not."""
    return any(f"{p}img/embedding/kernel" in shapes for p in ("", "params/"))


def _blocks(shapes: Shapes, at: str) -> Leaves:
    """Return the blocks, which are numbered or scanned."""
    one = f"{at}/encoderblock_{{}}"
    layers = count_layers(shapes, f"{one}/LayerNorm_0/scale")
    if layers:
        return block_leaves(at, layers)
    scanned = flax.block(f"{at}/encoderblock", *_MODULES)
    depth = shapes[f"{at}/encoderblock/LayerNorm_0/scale"][0]
    return {
        name: dataclasses.replace(leaf, scanned=True)
        for name, leaf in stacked(scanned, depth).items()
    }


def image_end_leaves(p: str, *, pooled: bool, projected: bool) -> Leaves:
    """Return the leaves of the image tower below the prefix `p`, except the blocks."""
    return {
        "patch_embed/kernel": Leaf((f"{p}img/embedding/kernel",), flax.patch_kernel),
        "patch_embed/bias": Leaf((f"{p}img/embedding/bias",)),
        "pos_embed": Leaf((f"{p}img/pos_embedding",)),
        **flax.norm(f"{p}img/Transformer/encoder_norm", "norm"),
        **(flax.pooling_head(f"{p}img/MAPHead_0") if pooled else {}),
        **(flax.dense(f"{p}img/head", "projection") if projected else {}),
    }


def text_end_leaves(p: str) -> Leaves:
    """Return the leaves of the text tower, except the blocks."""
    return {
        "word_embed/embedding": Leaf((f"{p}txt/Embed_0/embedding",)),
        "pos_embed": Leaf((f"{p}txt/pos_embedding",)),
        **flax.norm(f"{p}txt/Encoder_0/encoder_norm", "norm"),
        **flax.dense(f"{p}txt/head", "projection"),
    }


def block_leaves(at: str, layers: int) -> Leaves:
    """Return the leaves of numbered blocks."""
    return stacked(flax.block(f"{at}/encoderblock_{{}}", *_MODULES), layers)


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe both towers, the temperature and the bias; no configuration file is needed."""
    del files, run
    p = "" if "img/embedding/kernel" in shapes else "params/"
    kernel, head = f"{p}img/embedding/kernel", f"{p}img/MAPHead_0"
    pooled, projected = f"{head}/probe" in shapes, f"{p}img/head/kernel" in shapes
    image = {
        **image_end_leaves(p, pooled=pooled, projected=projected),
        **_blocks(shapes, f"{p}img/Transformer"),
    }
    text = text_end_leaves(p) | _blocks(shapes, f"{p}txt/Encoder_0")
    _, tokens, width = shapes[f"{p}txt/pos_embedding"]
    settings = {
        **flax.image_shape(shapes[kernel], shapes[f"{p}img/pos_embedding"][1]),
        **flax.block_settings(shapes, image, "image"),
        "model.image.pool": "map" if pooled else "gap",
        "model.image.ln_pre": False,
        "model.image.projection": "biased" if projected else "none",
        **flax.block_settings(shapes, text, "text"),
        "model.text.max_tokens": tokens,
        "model.text.width": width,
        "model.text.pre_norm": True,
        "model.text.causal": False,
        "model.text.pool": "last",
        "model.text.pad_mask": False,
        "model.text.projection": "biased",
        "model.embed_dim": shapes[f"{p}txt/head/kernel"][1],
        **{f"model.{t}.{name}": v for t in ("image", "text") for name, v in VARIANT.items()},
    }
    return Contents(
        settings,
        image,
        text,
        pair_scalars(shapes, f"{p}t", f"{p}b"),
        KNOWN_PIXELS["half"],
        scopes=(f"{p}img/", f"{p}txt/"),
    )
