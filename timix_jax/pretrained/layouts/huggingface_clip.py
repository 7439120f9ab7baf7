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
from timix_jax.pretrained.leaves import Leaf, norm, patch_kernel, transposed
from timix_jax.pretrained.pixels import no_bias
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "Hugging Face's CLIPModel"

_IMAGE = "vision_model.embeddings."


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for both towers with a class embedding."""
    return f"{_IMAGE}class_embedding" in shapes and "visual_projection.weight" in shapes


def _projection(name: str) -> dict[str, Leaf]:
    return {"projection/kernel": Leaf((f"{name}.weight",), transposed)}


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
    image_blocks, image_layers = hf.encoder(shapes, "vision_model.", "image", image, run)
    text_blocks, text_layers = hf.encoder(shapes, "text_model.", "text", text, run)
    text_settings, text_ends = hf.text_embeddings(shapes)
    kernel, table = f"{_IMAGE}patch_embedding.weight", f"{_IMAGE}position_embedding.weight"
    patch_embed = Leaf((kernel,), patch_kernel)
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
            **text_settings,
            "model.text.causal": True,
            "model.text.pool": "eot",
            "model.text.projection": "linear",
            "model.embed_dim": shapes["visual_projection.weight"][0],
        },
        {
            "patch_embed/kernel": patch_embed,
            "patch_embed/bias": no_bias(patch_embed),
            **position_leaves(Leaf((f"{_IMAGE}class_embedding",)), table),
            **norm("vision_model.pre_layrnorm", "norm_pre"),  # so spelt there
            **image_layers,
            **norm("vision_model.post_layernorm", "norm"),
            **_projection("visual_projection"),
        },
        {**text_ends, **text_layers, **_projection("text_projection")},
        pair_scalars(shapes, "logit_scale", ""),
        hf.pixels(files),
        unread=r".*\.position_ids$",
        scopes=("vision_model.", "text_model."),
    )
