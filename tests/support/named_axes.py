"""The dual encoder's axes as lists of regular expressions over its parameter names: a reference for declared axes."""

import re

from timix_jax.parallel.axes import Axes

TENSOR = (
    (r"attention/qkv/(?:kernel|bias)", -2),
    (r"attention/out/kernel", -3),
    (r"mlp/up/(?:kernel|bias)", -1),
    (r"mlp/down/kernel", -2),
)
STACKED = r".*/layers/.*"
NO_DECAY = (
    r"(?:.*/)?(?:bias|scale|cls|cls_token|cls_embedding|mask_token|temperature|log_temperature"
    r"|logit_scale|[^/]*pos[^/]*emb[^/]*(?:/embedding)?)"
)
# Dimensions in and out of each matrix of a stacked kernel, counted from the front.
MUON = {
    r".*/attention/qkv/kernel": ((1,), (3, 4)),  # (layer, C, 3, heads, C/heads)
    r".*/attention/out/kernel": ((1, 2), (3,)),  # (layer, heads, C/heads, C)
    r".*/mlp/(?:up|down)/kernel": ((1,), (2,)),  # (layer, in, out)
}


def is_stacked(name):
    return re.fullmatch(STACKED, name) is not None


def decays(name, ndim):
    return ndim - is_stacked(name) >= 2 and re.fullmatch(NO_DECAY, name) is None


def muon_dimensions(name):
    return next((axes for pattern, axes in MUON.items() if re.fullmatch(pattern, name)), None)


def tensor_dimension(name):
    found = (axis for text, axis in TENSOR if re.fullmatch(f"(?:.*/)?(?:{text})", name))
    return next(found, None)


def default_spec(name, shape, mesh, small):
    """Mesh axes of each dimension, by name."""
    split = [None] * len(shape)
    axis = tensor_dimension(name)
    if mesh.shape["tensor"] > 1 and axis is not None:
        split[axis] = "tensor"
    parts, size = mesh.shape["fsdp"], 1
    for length in shape:
        size *= length
    if parts > 1 and size >= small:
        free = [
            axis
            for axis in range(is_stacked(name), len(shape))
            if split[axis] is None and shape[axis] and shape[axis] % parts == 0
        ]
        if free:
            split[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return tuple(split) if any(split) else ()


def declared_by_name(params):
    """`Axes` for a nested dict of parameters with names like the dual encoder's."""

    def declare(prefix, node):
        if isinstance(node, dict):
            return {key: declare(f"{prefix}/{key}", child) for key, child in node.items()}
        name, ndim = prefix[1:], len(node.shape)
        muon = muon_dimensions(name)
        from_end = lambda dimensions: tuple(dimension - ndim for dimension in dimensions)
        return Axes(
            tensor=tensor_dimension(name),
            muon=muon and (from_end(muon[0]), from_end(muon[1])),
            decay=decays(name, ndim),
            stacked=is_stacked(name),
        )

    return declare("", params)
