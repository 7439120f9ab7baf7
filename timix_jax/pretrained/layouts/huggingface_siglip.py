"""Hugging Face's SiglipModel, of SigLIP and SigLIP 2 at a fixed size."""

from collections.abc import Mapping
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import huggingface as hf
from timix_jax.pretrained.layouts.base import Contents, Shapes, image_shape, pair_scalars
from timix_jax.pretrained.leaves import (
    Array,
    Leaf,
    Leaves,
    attention_out,
    linear,
    norm,
    patch_kernel,
    split_heads,
)
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "Hugging Face's SiglipModel"

_IMAGE = "vision_model.embeddings."
_HEAD = "vision_model.head."


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for both towers, the image's with an attention pooling head."""
    return f"{_HEAD}probe" in shapes and "text_model.head.weight" in shapes


def _pool(heads: int) -> Leaves:
    """Return the head, whose attention is PyTorch's: queries, keys and values are one matrix (3·C, C)."""
    weight, bias = f"{_HEAD}attention.in_proj_weight", f"{_HEAD}attention.in_proj_bias"
    biases = lambda array: array.reshape(3, heads, -1)

    def matrices(matrix: Array) -> Array:
        return split_heads(heads)(matrix)

    return {
        "attention_pool/probe": Leaf((f"{_HEAD}probe",)),
        "attention_pool/query/kernel": Leaf((weight,), lambda m: matrices(m)[:, 0]),
        "attention_pool/query/bias": Leaf((bias,), lambda b: biases(b)[0]),
        "attention_pool/kv/kernel": Leaf((weight,), lambda m: matrices(m)[:, 1:]),
        "attention_pool/kv/bias": Leaf((bias,), lambda b: biases(b)[1:]),
        **attention_out(f"{_HEAD}attention.out_proj", heads, "attention_pool/out"),
        **norm(f"{_HEAD}layernorm", "attention_pool/norm"),
        **linear(f"{_HEAD}mlp.fc1", "attention_pool/mlp/up"),
        **linear(f"{_HEAD}mlp.fc2", "attention_pool/mlp/down"),
    }


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe both towers, the temperature and the bias."""
    config = files.json("config.json")
    sides = {
        side: None if config is None else config.get(f"{side}_config", {})
        for side in ("vision", "text")
    }
    common = {"act": "gelu_pytorch_tanh", "eps": 1e-6, "heads": 12}
    image = hf.variant(sides["vision"], "image", **common)  # type: ignore[arg-type]
    text = hf.variant(sides["text"], "text", **common)  # type: ignore[arg-type]
    kernel, table = f"{_IMAGE}patch_embedding.weight", f"{_IMAGE}position_embedding.weight"
    if len(shapes[kernel]) != 4:
        raise UserError(
            "is a NaFlex SigLIP 2, whose images have any shape; take one of a fixed size"
        )
    image_blocks, image_layers = hf.encoder(shapes, "vision_model.", "image", image, run)
    text_blocks, text_layers = hf.encoder(shapes, "text_model.", "text", text, run)
    text_settings, text_ends = hf.text_embeddings(shapes)
    return Contents(
        {
            **image,
            **image_blocks,
            **image_shape(shapes[kernel], shapes[table][0]),
            "model.image.pool": "map",
            "model.image.ln_pre": False,
            "model.image.projection": "none",
            **text,
            **text_blocks,
            **text_settings,
            "model.text.causal": False,
            "model.text.pool": "last",
            "model.text.pad_mask": False,
            "model.text.projection": "biased",
            "model.embed_dim": shapes["text_model.head.weight"][0],
        },
        {
            "patch_embed/kernel": Leaf((kernel,), patch_kernel),
            "patch_embed/bias": Leaf((f"{_IMAGE}patch_embedding.bias",)),
            "pos_embed": Leaf((table,), lambda positions: positions[None]),
            **image_layers,
            **norm("vision_model.post_layernorm", "norm"),
            **_pool(image_blocks["model.image.heads"]),
        },
        {**text_ends, **text_layers, **linear("text_model.head", "projection")},
        pair_scalars(shapes, "logit_scale", "logit_bias"),
        hf.pixels(files),
        unread=r".*\.position_ids$",
        scopes=("vision_model.", "text_model."),
    )
