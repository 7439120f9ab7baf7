"""vision_transformer's (AugReg) and big_vision's ViTs as .npz: an image tower."""

from collections.abc import Mapping
from typing import Any

from timix_jax.pretrained.layouts import flax
from timix_jax.pretrained.layouts.base import Contents, Shapes, position_leaves
from timix_jax.pretrained.leaves import Leaf, count_layers, stacked
from timix_jax.pretrained.pixels import KNOWN_PIXELS
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "vision_transformer's ViT"

_PREFIXES = ("", "params/", "opt/target/")
_ORIGINAL = ("MultiHeadDotProductAttention_1", "MlpBlock_3", ("LayerNorm_0", "LayerNorm_2"))
_BIG_VISION = ("MultiHeadDotProductAttention_0", "MlpBlock_0", ("LayerNorm_0", "LayerNorm_1"))


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for either scheme of names, with or without a prefix."""
    return any(
        f"{p}embedding/kernel" in shapes and f"{p}Transformer/encoder_norm/scale" in shapes
        for p in _PREFIXES
    )


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe the image tower; no configuration file is needed, and the projection stays fresh."""
    del files, run
    p = next(p for p in _PREFIXES if f"{p}embedding/kernel" in shapes)
    one = f"{p}Transformer/encoderblock_{{}}"
    layers = count_layers(shapes, f"{one}/LayerNorm_0/scale")
    original = f"{one.format(0)}/MlpBlock_3/Dense_0/kernel" in shapes
    kernel = f"{p}embedding/kernel"
    tables = (f"{p}Transformer/posembed_input/pos_embedding", f"{p}pos_embedding")
    table = tables[0] if tables[0] in shapes else tables[1]
    patches, cls = shapes[table][1], f"{p}cls"
    head = f"{p}MAPHead_0"
    if cls in shapes and _is_square(patches - 1):
        # With the position of [CLS] in the table.
        tokens, patches = position_leaves(Leaf((cls,)), table), patches - 1
    else:
        tokens = {"pos_embed": Leaf((table,))} | ({"cls": Leaf((cls,))} if cls in shapes else {})
    pooled = f"{head}/probe" in shapes
    image = {
        "patch_embed/kernel": Leaf((kernel,), flax.patch_kernel),
        "patch_embed/bias": Leaf((f"{p}embedding/bias",)),
        **tokens,
        **stacked(flax.block(one, *(_ORIGINAL if original else _BIG_VISION)), layers),
        **flax.norm(f"{p}Transformer/encoder_norm", "norm"),
        **(flax.pooling_head(head) if pooled else {}),
    }
    settings = {
        **flax.image_shape(shapes[kernel], patches),
        **flax.block_settings(shapes, image, "image"),
        "model.image.pool": "map" if pooled else "cls" if cls in shapes else "gap",
        "model.image.ln_pre": False,
        "model.image.act": "gelu_tanh",  # jax.nn.gelu's form
        "model.image.eps": 1e-6,
    }
    return Contents(
        settings,
        image=image,
        pixels=KNOWN_PIXELS["half"],
        scopes=(f"{p}Transformer/", f"{p}embedding/"),
    )


def _is_square(number: int) -> bool:
    return round(number**0.5) ** 2 == number
