"""mPLUG's fusion layers in NumPy: BERT's layers, and the rule for image and caption."""

import jax
import numpy as np
from scipy.special import erf


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def mlp(p, x):
    hidden = gelu(x @ p["up"]["kernel"] + p["up"]["bias"])
    return hidden @ p["down"]["kernel"] + p["down"]["bias"]


def attention(query, key, value, seen, out):
    logits = np.einsum("bthd,bshd->bhts", query, key) / np.sqrt(query.shape[-1])
    logits = np.where(seen[:, None, None], logits, -np.inf)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    y = np.einsum("bhts,bshd->bthd", odds / odds.sum(-1, keepdims=True), value)
    return np.einsum("bthd,hdc->btc", y, out["kernel"]) + out["bias"]


def self_attention(p, x, seen):
    qkv = np.einsum("btc,cjhd->jbthd", x, p["qkv"]["kernel"]) + p["qkv"]["bias"][:, None, None]
    return attention(*qkv, seen, p["out"])


def cross_layer(p, text, seen, image):
    text = norm(p["norm1"], text + self_attention(p["attention"], text, seen))
    q, kv = p["cross_query"], p["cross_key_value"]
    query = np.einsum("btc,chd->bthd", text, q["kernel"]) + q["bias"]
    both = np.einsum("bsc,cjhd->jbshd", image, kv["kernel"]) + kv["bias"][:, None, None]
    everything = np.ones(image.shape[:2], bool)
    text = norm(p["cross_norm"], text + attention(query, *both, everything, p["cross_out"]))
    return norm(p["norm2"], text + mlp(p["mlp"], text))


def connected_layer(p, text, seen, image):
    """One block over [image ; text]; the text is replaced, the image keeps what it was and adds what is new."""
    x = np.concatenate([image, text], axis=1)
    seen = np.concatenate([np.ones(image.shape[:2], bool), seen], axis=1)
    x = norm(p["norm1"], x + self_attention(p["attention"], x, seen))
    x = norm(p["norm2"], x + mlp(p["mlp"], x))
    size = image.shape[1]
    return x[:, size:], image + x[:, :size]


def fused(params, depth, stride, text, seen, tokens):
    """Return the states of text and image after all layers."""
    image = tokens
    if "adapter" in params:
        adapter = params["adapter"]
        image = norm(params["adapter_norm"], tokens @ adapter["kernel"] + adapter["bias"])
    count = {"cross": 0, "connected": 0}
    for i in range(depth):
        kind = "connected" if i > 0 and i % stride == 0 else "cross"
        own = jax.tree.map(lambda p, n=count[kind]: p[n], params[kind]["layers"])
        if kind == "connected":
            text, image = connected_layer(own, text, seen, image)
        else:
            text = cross_layer(own, text, seen, image)
        count[kind] += 1
    return text, image
