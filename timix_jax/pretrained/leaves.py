"""How each of our parameters is made of a file's arrays: transposed, joined, stacked over layers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from timix_jax.pretrained.weight_files import Read, Shape

Array = np.ndarray


def transposed(matrix: Array) -> Array:
    """Return the transpose of a matrix, in C order; OpenCV's is six times as fast as NumPy's on a large one."""
    large = matrix.flags.c_contiguous and matrix.dtype == np.float32 and matrix.size > 2**16
    return cv2.transpose(matrix) if large else matrix.T


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter.

    Attributes:
      names: the arrays that it is made of; "{}" stands for the number of the layer.
      convert: maps these arrays, of one layer, to the parameter of that layer.
      layers: number of layers that are stacked on a leading axis; 0 for a parameter without that axis.
      scanned: the file's arrays have the leading axis of layers themselves.
    """

    names: tuple[str, ...]
    convert: Callable[..., Array] = lambda array: array
    layers: int = 0
    scanned: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """All names in the file, of all layers."""
        if self.scanned or not self.layers:
            return self.names
        return tuple(name.format(i) for i in range(self.layers) for name in self.names)

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Return the shape of the parameter for arrays of these shapes.

        Raises:
          ValueError: a layer has other shapes than the first.
        """
        layer_shapes = [
            [shapes[n][1:] if self.scanned else shapes[n.format(i)] for n in self.names]
            for i in range(1 if self.scanned else max(self.layers, 1))
        ]
        for i, given in enumerate(layer_shapes):
            if given != layer_shapes[0]:
                raise ValueError(f"layer {i} has {given}, layer 0 has {layer_shapes[0]}")
        zero = np.zeros((), np.float32)
        one = self.convert(*(np.broadcast_to(zero, shape) for shape in layer_shapes[0]))
        return (self.layers, *one.shape) if self.layers else one.shape

    def build(self, read: Read) -> Array:
        """Return the parameter; one layer after the other is read."""
        if not self.layers:
            return self.convert(*(read(name) for name in self.names))
        whole = [read(name) for name in self.names] if self.scanned else []
        stacked: Array | None = None
        for i in range(self.layers):
            layer = [array[i] for array in whole] or [read(n.format(i)) for n in self.names]
            one = self.convert(*layer)
            if stacked is None:
                stacked = np.empty((self.layers, *one.shape), one.dtype)
            stacked[i] = one
        assert stacked is not None
        return stacked


Leaves = dict[str, Leaf]


def count_layers(shapes: Mapping[str, Any], name: str) -> int:
    """Return the number of layers L for which `name.format(0)` to `name.format(L - 1)` exist."""
    count = 0
    while name.format(count) in shapes:
        count += 1
    return count


def norm(prefix: str, name: str, *, weight: str = "weight", bias: str = "bias") -> Leaves:
    """Return scale and bias of the norm `name`, which the file calls `prefix`."""
    return {
        f"{name}/scale": Leaf((f"{prefix}.{weight}",)),
        f"{name}/bias": Leaf((f"{prefix}.{bias}",)),
    }


def linear(prefix: str, name: str) -> Leaves:
    """Return kernel and bias of PyTorch's linear layer `prefix`, whose matrix is (out, in)."""
    return {
        f"{name}/kernel": Leaf((f"{prefix}.weight",), transposed),
        f"{name}/bias": Leaf((f"{prefix}.bias",)),
    }


def stacked(leaves: Leaves, layers: int, root: str = "blocks/layers") -> Leaves:
    """Return the leaves of one block, whose names have "{}", as those of all blocks."""
    return {
        f"{root}/{name}": dataclasses.replace(leaf, layers=layers) for name, leaf in leaves.items()
    }


def split_heads(heads: int) -> Callable[..., Array]:
    """Return the conversion of PyTorch's query, key and value matrices, each (C, C), to one (C, 3, heads, D).

    One matrix (3·C, C) that holds all of them is accepted too, and so are two, to (C, 2, heads, D).
    """

    def convert(*matrices: Array) -> Array:
        width = matrices[0].shape[1]
        joined = np.concatenate(matrices) if len(matrices) > 1 else matrices[0]
        return transposed(joined).reshape(width, -1, heads, width // heads)

    return convert


def split_head_biases(heads: int) -> Callable[..., Array]:
    """Return the conversion of two or three biases (C,), or one (3·C,), to (3, heads, D)."""

    def convert(*biases: Array) -> Array:
        count = len(biases) if len(biases) > 1 else 3
        return np.concatenate(biases).reshape(count, heads, -1)

    return convert


def attention_out(prefix: str, heads: int, name: str = "attention/out") -> Leaves:
    """Return the output layer of attention, (C, C) in PyTorch and (heads, D, C) here."""
    merge = lambda matrix: transposed(matrix).reshape(heads, -1, matrix.shape[0])
    return {
        f"{name}/kernel": Leaf((f"{prefix}.weight",), merge),
        f"{name}/bias": Leaf((f"{prefix}.bias",)),
    }


def attention_in(
    weights: tuple[str, ...], biases: tuple[str, ...], heads: int, name: str = "attention/qkv"
) -> Leaves:
    """Return the joined query, key and value layers."""
    return {
        f"{name}/kernel": Leaf(weights, split_heads(heads)),
        f"{name}/bias": Leaf(biases, split_head_biases(heads)),
    }


def separate(prefix: str, names: tuple[str, ...], heads: int) -> Leaves:
    """Return `attention_in` of three linear layers `prefix.NAME`."""
    weights = tuple(f"{prefix}.{name}.weight" for name in names)
    return attention_in(weights, tuple(f"{prefix}.{name}.bias" for name in names), heads)


def patch_kernel(matrix: Array) -> Array:
    """Map a patch convolution (C, 3, P, P) to the kernel (P·P·3, C) over (row, column, channel)."""
    return matrix.transpose(2, 3, 1, 0).reshape(-1, matrix.shape[0])
