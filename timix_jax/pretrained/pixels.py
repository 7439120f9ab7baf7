"""Pixel normalisation, folded into the patch kernel: our towers read pixels from -1 to 1."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from timix_jax.pretrained.leaves import Leaf, Leaves

Array = np.ndarray


class Pixels(NamedTuple):
    """Mean and standard deviation per channel of pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


KNOWN_PIXELS = {
    "half": Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Pixels((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def fold(leaves: Leaves, pixels: Pixels) -> Leaves:
    """Return the leaves of an image tower for pixels from -1 to 1 instead of normalised ones.

    With p from -1 to 1, the normalised pixel is (0.5·p + 0.5 − μ) / σ: an affine map per channel, which the linear
    layer takes up exactly.
    """
    kernel, bias = leaves["patch_embed/kernel"], leaves["patch_embed/bias"]
    scale = 0.5 / np.asarray(pixels.std)
    shift = (0.5 - np.asarray(pixels.mean)) / np.asarray(pixels.std)
    folded_kernel, folded_bias = _folded(kernel, bias, scale, shift)
    return {**leaves, "patch_embed/kernel": folded_kernel, "patch_embed/bias": folded_bias}


def _folded(kernel: Leaf, bias: Leaf, scale: Array, shift: Array) -> tuple[Leaf, Leaf]:
    def scaled(matrix: Array) -> Array:
        converted = kernel.convert(matrix).astype(np.float64)
        per_channel = converted.reshape(-1, 3, converted.shape[1])
        return (per_channel * scale[:, None]).reshape(converted.shape).astype(np.float32)

    def shifted(matrix: Array, *old: Array) -> Array:
        converted = kernel.convert(matrix).astype(np.float64)
        moved = np.einsum("pcf,c->f", converted.reshape(-1, 3, converted.shape[1]), shift)
        return (moved + (bias.convert(*old) if old else 0)).astype(np.float32)

    # A convolution without a bias is declared with the names of its kernel.
    names = kernel.names if bias.names == kernel.names else kernel.names + bias.names
    return Leaf(kernel.names, scaled), Leaf(names, shifted)


def no_bias(kernel: Leaf) -> Leaf:
    """Return the bias of a patch convolution that has none."""
    zeros: Callable[[Array], Array] = lambda matrix: np.zeros(len(matrix), np.float32)
    return Leaf(kernel.names, zeros)
