"""A fusion layer and its heads in NumPy, from the formulas of docs/method.md §5."""

import numpy as np
from scipy.special import erf


def norm(x, p, eps=1e-12):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def attend(query, key, value, mask=None):
    """Attention of (B, T, H, D) to (B, S, H, D)."""
    logits = np.einsum("bthd,bshd->bhts", query, key) / np.sqrt(query.shape[-1])
    if mask is not None:
        logits = np.where(mask[:, None, None], logits, -1e30)
    return np.einsum("bhts,bshd->bthd", softmax(logits), value)


def project(x, p):
    return np.einsum("btc,c...->bt...", x, p["kernel"]) + p["bias"]


def out(x, p):
    return np.einsum("bthd,hdc->btc", x, p["kernel"]) + p["bias"]


def fusion_layer(p, x, mask, states):
    """One layer on captions x (B, T, C), mask (B, T), and image states (B, S, Cs)."""
    qkv = project(x, p["attention"]["qkv"])
    y = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask)
    x = norm(x + out(y, p["attention"]["out"]), p["norm1"])
    kv = project(states, p["cross_key_value"])
    y = attend(project(x, p["cross_query"]), kv[:, :, 0], kv[:, :, 1])
    x = norm(x + out(y, p["cross_out"]), p["cross_norm"])
    hidden = gelu(project(x, p["mlp"]["up"]))
    return norm(x + project(hidden, p["mlp"]["down"]), p["norm2"])


def fuse(params, x, mask, states):
    """All fusion layers of a parameter tree with stacked `fusion/layers`."""
    import jax  # for the tree only

    layers = params["fusion"]["layers"]
    for i in range(len(layers["norm1"]["scale"])):
        x = fusion_layer(jax.tree.map(lambda p, i=i: np.float64(p[i]), layers), x, mask, states)
    return x


def match_logits(params, states):
    p = params["heads"]["match"]["output"]
    return states[:, 0] @ np.float64(p["kernel"]) + np.float64(p["bias"])


def word_logits(params, states):
    """Map (..., C) to (..., V)."""
    p = params["heads"]["words"]
    x = gelu(states @ np.float64(p["dense"]["kernel"]) + p["dense"]["bias"])
    table = np.float64(params["text"]["word_embed"]["embedding"])
    return norm(x, p["norm"]) @ table.T + p["bias"]
