"""Hugging Face's SiglipModel, of SigLIP and SigLIP 2 at a fixed size."""

from collections.abc import Mapping
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import huggingface as hf
from timix_jax.pretrained.layouts.base import Contents, Shapes, image_shape, pair_scalars
from timix_jax.pretrained.leaves import (
    POSITIONS,
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

IMAGE = "vision_model.embeddings."
_HEAD = "vision_model.head."


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for both towers, the image's with an attention pooling head."""
    return f"{_HEAD}probe" in shapes and "text_model.head.weight" in shapes


HEAD_WEIGHT, HEAD_BIAS = f"{_HEAD}attention.in_proj_weight", f"{_HEAD}attention.in_proj_bias"


def image_leaves(layers: int, heads: int) -> Leaves:
    """Return the leaves of the image tower, except the attention of the pooling head, which is not one to one."""
    return {
        "patch_embed/kernel": Leaf((f"{IMAGE}patch_embedding.weight",), patch_kernel),
        "patch_embed/bias": Leaf((f"{IMAGE}patch_embedding.bias",)),
        "pos_embed": Leaf((f"{IMAGE}position_embedding.weight",), POSITIONS),
        **hf.encoder_leaves("vision_model.", layers, heads),
        **norm("vision_model.post_layernorm", "norm"),
        "attention_pool/probe": Leaf((f"{_HEAD}probe",)),
        **attention_out(f"{_HEAD}attention.out_proj", heads, "attention_pool/out"),
        **norm(f"{_HEAD}layernorm", "attention_pool/norm"),
        **linear(f"{_HEAD}mlp.fc1", "attention_pool/mlp/up"),
        **linear(f"{_HEAD}mlp.fc2", "attention_pool/mlp/down"),
    }


def text_leaves(layers: int, heads: int) -> Leaves:
    """Return the leaves of the text tower."""
    return {
        **hf.text_end_leaves(),
        **hf.encoder_leaves("text_model.", layers, heads),
        **linear("text_model.head", "projection"),
    }


def _pool(heads: int) -> Leaves:
    """Return the head's attention, which is PyTorch's: queries, keys and values are one matrix (3·C, C)."""
    weight, bias = HEAD_WEIGHT, HEAD_BIAS
    biases = lambda array: array.reshape(3, heads, -1)

    def matrices(matrix: Array) -> Array:
        return split_heads(heads)(matrix)

    return {
        "attention_pool/query/kernel": Leaf((weight,), lambda m: matrices(m)[:, 0]),
        "attention_pool/query/bias": Leaf((bias,), lambda b: biases(b)[0]),
        "attention_pool/kv/kernel": Leaf((weight,), lambda m: matrices(m)[:, 1:]),
        "attention_pool/kv/bias": Leaf((bias,), lambda b: biases(b)[1:]),
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
    kernel, table = f"{IMAGE}patch_embedding.weight", f"{IMAGE}position_embedding.weight"
    if len(shapes[kernel]) != 4:
        raise UserError(
            "is a NaFlex SigLIP 2, whose images have any shape; take one of a fixed size"
        )
    image_blocks = hf.encoder_settings(shapes, "vision_model.", "image", image, run)
    text_blocks = hf.encoder_settings(shapes, "text_model.", "text", text, run)
    heads = image_blocks["model.image.heads"]
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
            **hf.text_settings(shapes),
            "model.text.causal": False,
            "model.text.pool": "last",
            "model.text.pad_mask": False,
            "model.text.projection": "biased",
            "model.embed_dim": shapes["text_model.head.weight"][0],
        },
        image_leaves(image_blocks["model.image.depth"], heads) | _pool(heads),
        text_leaves(text_blocks["model.text.depth"], text_blocks["model.text.heads"]),
        pair_scalars(shapes, "logit_scale", "logit_bias"),
        hf.pixels(files),
        unread=r".*\.position_ids$",
        scopes=("vision_model.", "text_model."),
    )
