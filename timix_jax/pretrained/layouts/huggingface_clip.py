"""Hugging Face's CLIPModel."""

from collections.abc import Mapping
from typing import Any

from timix_jax.pretrained.layouts import huggingface as hf
from timix_jax.pretrained.layouts.base import (
    Contents,
    Shapes,
    image_shape,
    pair_scalars,
    position_leaves,
)
from timix_jax.pretrained.leaves import TRANSPOSED, Leaf, Leaves, norm, patch_kernel
from timix_jax.pretrained.pixels import no_bias
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "Hugging Face's CLIPModel"

IMAGE = "vision_model.embeddings."


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for both towers with a class embedding."""
    return f"{IMAGE}class_embedding" in shapes and "visual_projection.weight" in shapes


def image_leaves(layers: int, heads: int) -> Leaves:
    """Return the leaves of the image tower, except [CLS], positions and the patches' bias, which are not one to one."""
    return {
        "patch_embed/kernel": Leaf((f"{IMAGE}patch_embedding.weight",), patch_kernel),
        **norm("vision_model.pre_layrnorm", "norm_pre"),  # so spelt there
        **hf.encoder_leaves("vision_model.", layers, heads),
        **norm("vision_model.post_layernorm", "norm"),
        "projection/kernel": Leaf(("visual_projection.weight",), TRANSPOSED),
    }


def text_leaves(layers: int, heads: int) -> Leaves:
    """Return the leaves of the text tower."""
    return {
        **hf.text_end_leaves(),
        **hf.encoder_leaves("text_model.", layers, heads),
        "projection/kernel": Leaf(("text_projection.weight",), TRANSPOSED),
    }


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe both towers and the temperature."""
    config = files.json("config.json")
    sides = {
        side: None if config is None else config.get(f"{side}_config", {})
        for side in ("vision", "text")
    }
    common = {"act": "quick_gelu", "eps": 1e-5}
    image = hf.variant(sides["vision"], "image", **common, heads=12)  # type: ignore[arg-type]
    text = hf.variant(sides["text"], "text", **common, heads=8)  # type: ignore[arg-type]
    image_blocks = hf.encoder_settings(shapes, "vision_model.", "image", image, run)
    text_blocks = hf.encoder_settings(shapes, "text_model.", "text", text, run)
    kernel, table = f"{IMAGE}patch_embedding.weight", f"{IMAGE}position_embedding.weight"
    image_tower = image_leaves(image_blocks["model.image.depth"], image_blocks["model.image.heads"])
    image_tower["patch_embed/bias"] = no_bias(image_tower["patch_embed/kernel"])
    image_tower |= position_leaves(Leaf((f"{IMAGE}class_embedding",)), table)
    return Contents(
        {
            **image,
            **image_blocks,
            **image_shape(shapes[kernel], shapes[table][0] - 1),
            "model.image.pool": "cls",
            "model.image.ln_pre": True,
            "model.image.projection": "linear",
            **text,
            **text_blocks,
            **hf.text_settings(shapes),
            "model.text.causal": True,
            "model.text.pool": "eot",
            "model.text.projection": "linear",
            "model.embed_dim": shapes["visual_projection.weight"][0],
        },
        image_tower,
        text_leaves(text_blocks["model.text.depth"], text_blocks["model.text.heads"]),
        pair_scalars(shapes, "logit_scale", ""),
        hf.pixels(files),
        unread=r".*\.position_ids$",
        scopes=("vision_model.", "text_model."),
    )
