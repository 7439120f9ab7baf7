"""Towers written in the names and shapes of big_vision's and vision_transformer's .npz files."""

import numpy as np


def dense(name, layer):
    return {f"{name}/kernel": layer[0], f"{name}/bias": layer[1]}


def norm(name, layer):
    return {f"{name}/scale": layer[0], f"{name}/bias": layer[1]}


def _attention(name, layers, heads):
    """Queries, keys and values are (C, heads, D), the output is (heads, D, C)."""
    arrays = {}
    for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        matrix, bias = layers[ours]
        arrays[f"{name}/{theirs}/kernel"] = matrix.reshape(len(matrix), heads, -1)
        arrays[f"{name}/{theirs}/bias"] = bias.reshape(heads, -1)
    matrix, bias = layers["o"]
    arrays[f"{name}/out/kernel"] = matrix.reshape(heads, -1, matrix.shape[1])
    return arrays | {f"{name}/out/bias": bias}


def _blocks(tower, at, attention, mlp, norms, scanned=False):
    numbered = [
        {
            **norm(norms[0], block["norm1"]),
            **norm(norms[1], block["norm2"]),
            **_attention(attention, block, tower.heads),
            **dense(f"{mlp}/Dense_0", block["up"]),
            **dense(f"{mlp}/Dense_1", block["down"]),
        }
        for block in tower.blocks
    ]
    if scanned:
        return {f"{at}/encoderblock/{n}": np.stack([b[n] for b in numbered]) for n in numbered[0]}
    return {
        f"{at}/encoderblock_{i}/{name}": array
        for i, block in enumerate(numbered)
        for name, array in block.items()
    }


_BIG_VISION = ("MultiHeadDotProductAttention_0", "MlpBlock_0", ("LayerNorm_0", "LayerNorm_1"))
_ORIGINAL = ("MultiHeadDotProductAttention_1", "MlpBlock_3", ("LayerNorm_0", "LayerNorm_2"))


def big_vision_siglip(image, text, scale, bias, *, at="params/", scanned=False):
    la, head, pool = image.layers, image.layers["head"], f"{at}img/MAPHead_0"
    return {
        f"{at}img/embedding/kernel": la["patch"],
        f"{at}img/embedding/bias": la["patch_bias"],
        f"{at}img/pos_embedding": la["positions"][None],
        **_blocks(image, f"{at}img/Transformer", *_BIG_VISION, scanned=scanned),
        **norm(f"{at}img/Transformer/encoder_norm", la["norm"]),
        f"{pool}/probe": head["probe"][None, None],
        **_attention(f"{pool}/MultiHeadDotProductAttention_0", head, image.heads),
        **norm(f"{pool}/LayerNorm_0", head["norm"]),
        **dense(f"{pool}/MlpBlock_0/Dense_0", head["up"]),
        **dense(f"{pool}/MlpBlock_0/Dense_1", head["down"]),
        f"{at}txt/Embed_0/embedding": text.layers["words"],
        f"{at}txt/pos_embedding": text.layers["positions"][None],
        **_blocks(text, f"{at}txt/Encoder_0", *_BIG_VISION, scanned=scanned),
        **norm(f"{at}txt/Encoder_0/encoder_norm", text.layers["norm"]),
        **dense(f"{at}txt/head", text.layers["projection"]),
        f"{at}t": np.asarray([scale]),
        f"{at}b": np.asarray([bias]),
    }


def vision_transformer(tower, *, at="", original=True):
    la = tower.layers
    table = np.vstack([la["cls_position"], la["positions"]])[None]
    positions = "Transformer/posembed_input/pos_embedding" if original else "pos_embedding"
    return {
        f"{at}cls": la["cls"][None, None],
        f"{at}embedding/kernel": la["patch"],
        f"{at}embedding/bias": la["patch_bias"],
        f"{at}{positions}": table,
        **_blocks(tower, f"{at}Transformer", *(_ORIGINAL if original else _BIG_VISION)),
        **norm(f"{at}Transformer/encoder_norm", la["norm"]),
        f"{at}head/kernel": np.zeros((la["patch"].shape[3], 10)),
        f"{at}head/bias": np.zeros(10),
    }
