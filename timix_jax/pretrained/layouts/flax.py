"""Blocks and heads of big_vision and vision_transformer: kernels are (in, out), heads have axes of their own."""

import math
from collections.abc import Mapping

import numpy as np

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts.base import Shapes
from timix_jax.pretrained.leaves import Array, Conversion, Leaf, Leaves
from timix_jax.pretrained.weight_files import Shape

_QKV = ("query", "key", "value")


def norm(prefix: str, name: str) -> Leaves:
    """Return scale and bias."""
    return {f"{name}/{part}": Leaf((f"{prefix}/{part}",)) for part in ("scale", "bias")}


def dense(prefix: str, name: str) -> Leaves:
    """Return kernel and bias."""
    return {f"{name}/{part}": Leaf((f"{prefix}/{part}",)) for part in ("kernel", "bias")}


def join(axis: int, parts: tuple[str, ...], prefix: str, part: str) -> Leaf:
    """Return several arrays on a new axis, such as queries, keys and values."""
    stack = Conversion(
        lambda *arrays: np.stack(arrays, axis),
        lambda parameter, count: tuple(np.moveaxis(parameter, axis, 0)),
    )
    return Leaf(tuple(f"{prefix}/{name}/{part}" for name in parts), stack)


def block(at: str, attention: str, mlp: str, norms: tuple[str, str]) -> Leaves:
    """Return one block; the modules' names, with their numbers, differ between the two projects."""
    return {
        **norm(f"{at}/{norms[0]}", "norm1"),
        **norm(f"{at}/{norms[1]}", "norm2"),
        "attention/qkv/kernel": join(1, _QKV, f"{at}/{attention}", "kernel"),
        "attention/qkv/bias": join(0, _QKV, f"{at}/{attention}", "bias"),
        **dense(f"{at}/{attention}/out", "attention/out"),
        **dense(f"{at}/{mlp}/Dense_0", "mlp/up"),
        **dense(f"{at}/{mlp}/Dense_1", "mlp/down"),
    }


def pooling_head(at: str) -> Leaves:
    """Return big_vision's MAP head."""
    attention, name = f"{at}/MultiHeadDotProductAttention_0", "attention_pool"
    return {
        f"{name}/probe": Leaf((f"{at}/probe",)),
        **dense(f"{attention}/query", f"{name}/query"),
        f"{name}/kv/kernel": join(1, _QKV[1:], attention, "kernel"),
        f"{name}/kv/bias": join(0, _QKV[1:], attention, "bias"),
        **dense(f"{attention}/out", f"{name}/out"),
        **norm(f"{at}/LayerNorm_0", f"{name}/norm"),
        **dense(f"{at}/MlpBlock_0/Dense_0", f"{name}/mlp/up"),
        **dense(f"{at}/MlpBlock_0/Dense_1", f"{name}/mlp/down"),
    }


def _patch_kernel(kernel: Array, count: int) -> tuple[Array]:
    del count
    side = math.isqrt(len(kernel) // 3)
    return (kernel.reshape(side, side, 3, -1),)


# Maps (P, P, 3, C) to (P·P·3, C).
patch_kernel = Conversion(lambda kernel: kernel.reshape(-1, kernel.shape[-1]), _patch_kernel)


def image_shape(kernel: Shape, patches: int) -> dict[str, int]:
    """Return the settings that follow from the shape (P, P, 3, C) of a patch kernel and the number of patches."""
    if len(kernel) != 4:
        raise UserError(
            "has a patch kernel over flattened pixels (NaFlex), for images of any shape"
        )
    grid = round(patches**0.5)
    if grid * grid != patches:
        raise UserError(f"positions of {patches} patches are not a square grid")
    return {
        "model.image.size": grid * kernel[0],
        "model.image.patch": kernel[0],
        "model.image.width": kernel[3],
    }


def block_settings(shapes: Shapes, leaves: Mapping[str, Leaf], tower: str) -> dict[str, int]:
    """Return depth, heads and MLP width."""
    query = leaves["blocks/layers/attention/qkv/kernel"]
    up = leaves["blocks/layers/mlp/up/kernel"]
    return {
        f"model.{tower}.depth": query.layers,
        f"model.{tower}.heads": shapes[query.sources[0]][-2],
        f"model.{tower}.mlp_dim": shapes[up.sources[0]][-1],
    }
