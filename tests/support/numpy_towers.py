"""Random towers of published architectures and their forward passes in plain NumPy.

A layer is a pair: matrix (in, out) and bias, or scale and bias of a norm. What a tower lacks is None.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import erf

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


@dataclasses.dataclass
class Tower:
    """What both towers have; `layers` maps names to arrays or pairs, `blocks` is a list of such mappings."""

    layers: dict[str, Any]
    blocks: list[dict[str, Any]]
    heads: int
    act: str
    eps: float
    pre_norm: bool = True
    causal: bool = False
    pad_mask: bool = True
    pool: str = "cls"


def _pair(rng, ins, outs):
    return 1.5 * rng.standard_normal((ins, outs)) / math.sqrt(ins), 0.1 * rng.standard_normal(outs)


def _norm(rng, width):
    return 1 + 0.2 * rng.standard_normal(width), 0.1 * rng.standard_normal(width)


def _attention(rng, width):
    return {name: _pair(rng, width, width) for name in "qkvo"}


def _mlp(rng, width, hidden):
    return {"up": _pair(rng, width, hidden), "down": _pair(rng, hidden, width)}


def _blocks(rng, depth, width, hidden):
    return [
        {
            **_attention(rng, width),
            **_mlp(rng, width, hidden),
            "norm1": _norm(rng, width),
            "norm2": _norm(rng, width),
        }
        for _ in range(depth)
    ]


def image_tower(
    seed, *, width, heads, depth, grid, patch, space, hidden, cls=True, pre=False, **how
):
    """Draw an image tower; `space` is None without a projection."""
    rng = np.random.default_rng(seed)
    vector = lambda: 0.5 * rng.standard_normal(width)
    layers = {
        "patch": 1.5 * rng.standard_normal((patch, patch, 3, width)) / (patch * math.sqrt(3)),
        "patch_bias": vector(),
        "cls": vector() if cls else None,
        "cls_position": vector() if cls else None,
        "positions": 0.5 * rng.standard_normal((grid * grid, width)),
        "pre": _norm(rng, width) if pre else None,
        "norm": _norm(rng, width),
        "projection": _pair(rng, width, space)[0] if space else None,
    }
    if how.get("pool") == "map":
        head = {**_attention(rng, width), **_mlp(rng, width, hidden), "norm": _norm(rng, width)}
        layers["head"] = {**head, "probe": vector()}
    return Tower(layers, _blocks(rng, depth, width, hidden), heads, **how)


def text_tower(seed, *, width, heads, depth, tokens, vocabulary, space, hidden, bert=False, **how):
    """Draw a text tower; the projection has a bias that a layout may leave out by setting it to 0."""
    rng = np.random.default_rng(seed)
    layers = {
        "words": 0.5 * rng.standard_normal((vocabulary, width)),
        "positions": 0.5 * rng.standard_normal((tokens, width)),
        "types": 0.5 * rng.standard_normal((2, width)) if bert else None,
        "norm": _norm(rng, width),  # BERT's comes before the blocks
        "projection": _pair(rng, width, space) if space else None,
    }
    return Tower(layers, _blocks(rng, depth, width, hidden), heads, pre_norm=not bert, **how)


def _normed(x, layer, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * layer[0] + layer[1]


def _dense(x, layer):
    return x @ layer[0] + layer[1]


def _attend(x, memory, layers, heads, mask=None):
    q, k, v = (
        _dense(y, layers[n]).reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        for y, n in ((x, "q"), (memory, "k"), (memory, "v"))
    )
    logits = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
    logits = logits if mask is None else np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return _dense((weights @ v).transpose(0, 2, 1, 3).reshape(x.shape), layers["o"])


def _run_blocks(tower, x, mask=None):
    act = ACTIVATIONS[tower.act]
    mlp = lambda y, block: _dense(act(_dense(y, block["up"])), block["down"])
    for b in tower.blocks:
        if tower.pre_norm:
            y = _normed(x, b["norm1"], tower.eps)
            x = x + _attend(y, y, b, tower.heads, mask)
            x = x + mlp(_normed(x, b["norm2"], tower.eps), b)
        else:
            x = _normed(x + _attend(x, x, b, tower.heads, mask), b["norm1"], tower.eps)
            x = _normed(x + mlp(x, b), b["norm2"], tower.eps)
    return x


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def encode_images(tower, images, pixels):
    """Return (embeddings (B, D) before normalising, final tokens) of uint8 images (B, H, H, 3)."""
    la = tower.layers
    patch, width = la["patch"].shape[0], la["patch"].shape[3]
    x = (images / 255 - np.asarray(pixels[0])) / np.asarray(pixels[1])
    b, size = x.shape[:2]
    g = size // patch
    x = x.reshape(b, g, patch, g, patch, 3)
    x = np.einsum("bipjqc,pqcw->bijw", x, la["patch"]).reshape(b, g * g, width) + la["patch_bias"]
    x = x + la["positions"]
    if la["cls"] is not None:
        first = np.broadcast_to(la["cls"] + la["cls_position"], (b, 1, width))
        x = np.concatenate([first, x], axis=1)
    if la["pre"] is not None:
        x = _normed(x, la["pre"], tower.eps)
    tokens = _normed(_run_blocks(tower, x), la["norm"], tower.eps)
    if tower.pool == "map":
        h = la["head"]
        probe = np.broadcast_to(h["probe"], (b, 1, width))
        y = _attend(probe, tokens, h, tower.heads)
        z = ACTIVATIONS[tower.act](_dense(_normed(y, h["norm"], tower.eps), h["up"]))
        pooled = (y + _dense(z, h["down"]))[:, 0]
    else:
        pooled = tokens[:, 0] if tower.pool == "cls" else tokens.mean(1)
    return pooled if la["projection"] is None else pooled @ la["projection"], tokens


def encode_texts(tower, tokens, *, pad, end):
    """Return (embeddings (B, D) before normalising, hidden states) of int32 tokens (B, T)."""
    la = tower.layers
    t = tokens.shape[1]
    x = la["words"][tokens] + la["positions"][:t]
    mask = None
    if tower.causal:
        mask = np.tri(t, dtype=bool)[None, None]
    elif tower.pad_mask:
        mask = (tokens != pad)[:, None, None]
    if tower.pre_norm:
        hidden = _normed(_run_blocks(tower, x, mask), la["norm"], tower.eps)
    else:
        hidden = _run_blocks(tower, _normed(x + la["types"][0], la["norm"], tower.eps), mask)
    rows = np.arange(len(tokens))
    real = (tokens != pad)[..., None]
    pooled = {
        "cls": hidden[:, 0],
        "last": hidden[:, -1],
        "eot": hidden[rows, (tokens == end).argmax(1)],
        "mean": (hidden * real).sum(1) / real.sum(1),
    }[tower.pool]
    return pooled if la["projection"] is None else _dense(pooled, la["projection"]), hidden
