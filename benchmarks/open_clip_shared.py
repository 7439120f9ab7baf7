"""Sizes, batch, optimiser and weights that both sides of the open_clip comparison share. NumPy only.

open_clip builds the model of `timix_jax` exactly when it is told to: no norm before the blocks, bidirectional text
read at its first token, norms with epsilon 1e-6 (`benchmarks.open_clip_model`). Two things are then still placed
differently, neither changes what is computed: the position of the image's class token, which is added to the token
itself, and the sign of the temperature (a log scale there, a log temperature here).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

NORM_EPS = 1e-6
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.02
CLIP_NORM = 1.0
TEMPERATURE_RANGE = (0.01, 0.5)  # open_clip caps the scale at 100


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of both towers, in the terms of open_clip's model files; MLPs are four times as wide as their tower."""

    image_size: int
    patch: int
    width: int
    layers: int
    embed_dim: int
    text_width: int
    text_heads: int
    text_layers: int
    head_width: int = 64
    context: int = 77
    vocab_size: int = 49408

    @property
    def heads(self) -> int:
        """Return the number of heads of the image tower."""
        return self.width // self.head_width


# From the files of these names in open_clip/model_configs.
ARCHITECTURES = {
    "ViT-S-16": Architecture(224, 16, 384, 12, 384, 384, 6, 12),
    "ViT-B-32": Architecture(224, 32, 768, 12, 512, 512, 8, 12),
    "ViT-B-16": Architecture(224, 16, 768, 12, 512, 512, 8, 12),
}


def random_batch(sizes: Architecture, batch_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """image (B, H, H, 3) float32 in -1..1, tokens (B, T) int32 without padding: open_clip's CLIP does not mask it."""
    rng = np.random.default_rng(seed)
    side = sizes.image_size
    return {
        "image": rng.uniform(-1, 1, (batch_size, side, side, 3)).astype(np.float32),
        "tokens": rng.integers(1, sizes.vocab_size, (batch_size, sizes.context), np.int32),
    }


def timix_tree(
    named: Mapping[str, np.ndarray], sizes: Architecture, *, gradients: bool = False
) -> dict[str, Any]:
    """Return weights of open_clip's CLIP, or their gradients, as the tree of our dual encoder without the predictor.

    Args:
      named: the state dict as float arrays; linear layers are (out, in) there, (in, out) here.
      sizes: of the model.
      gradients: the arrays are gradients: a sum of parameters has the gradient of each of them, here of the
        position, since the class token is frozen.
    """
    position = named["visual.positional_embedding"]
    cls = position[0] + (0 if gradients else named["visual.class_embedding"])
    return {
        "image": {
            "patch_embed": {
                # (out, channel, row, column) to (row · column · channel, out).
                "kernel": named["visual.conv1.weight"]
                .transpose(2, 3, 1, 0)
                .reshape(-1, sizes.width),
                "bias": named["visual.conv1.bias"],
            },
            "cls": cls.reshape(1, 1, -1),
            "pos_embed": position[None, 1:],
            "blocks": {"layers": _layers(named, "visual.transformer", sizes.layers, sizes.heads)},
            "norm": _norm(named, "visual.ln_post"),
            "projection": {"kernel": named["visual.proj"]},
        },
        "text": {
            "word_embed": {"embedding": named["token_embedding.weight"]},
            "pos_embed": named["positional_embedding"][None],
            "blocks": {
                "layers": _layers(named, "transformer", sizes.text_layers, sizes.text_heads)
            },
            "norm": _norm(named, "ln_final"),
            "projection": {"kernel": named["text_projection"]},
        },
        "log_temperature": -named["logit_scale"],
    }


def _norm(named: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}


def _layers(named: Mapping[str, np.ndarray], tower: str, depth: int, heads: int) -> dict[str, Any]:
    """Stack blocks on a leading layer axis; query, key and value are one product on both sides."""

    def stack(name: str) -> np.ndarray:
        return np.stack([named[f"{tower}.resblocks.{i}.{name}"] for i in range(depth)])

    qkv, out = stack("attn.in_proj_weight"), stack("attn.out_proj.weight")
    width = qkv.shape[-1]
    split = (3, heads, width // heads)
    return {
        "norm1": {"scale": stack("ln_1.weight"), "bias": stack("ln_1.bias")},
        "attention": {
            "qkv": {
                "kernel": qkv.transpose(0, 2, 1).reshape(depth, width, *split),
                "bias": stack("attn.in_proj_bias").reshape(depth, *split),
            },
            "out": {
                "kernel": out.transpose(0, 2, 1).reshape(depth, *split[1:], width),
                "bias": stack("attn.out_proj.bias"),
            },
        },
        "norm2": {"scale": stack("ln_2.weight"), "bias": stack("ln_2.bias")},
        "mlp": {
            "up": {
                "kernel": stack("mlp.c_fc.weight").transpose(0, 2, 1),
                "bias": stack("mlp.c_fc.bias"),
            },
            "down": {
                "kernel": stack("mlp.c_proj.weight").transpose(0, 2, 1),
                "bias": stack("mlp.c_proj.bias"),
            },
        },
    }
