"""How each of our parameters is made of a file's arrays: transposed, joined, stacked over layers."""

import contextlib
import dataclasses
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from timix_jax.pretrained.weight_files import Read, Shape
from timix_jax.runtime.machine import available_cores

Array = np.ndarray

_LARGE = 1 << 20  # elements of a parameter whose layers are built in threads


def transposed(matrix: Array) -> Array:
    """Return the transpose of a matrix, in C order; OpenCV's is six times as fast as NumPy's on a large one."""
    return cv2.transpose(matrix) if _is_large(matrix) else matrix.T


def _is_large(matrix: Array) -> bool:
    return bool(matrix.flags.c_contiguous and matrix.dtype == np.float32 and matrix.size > 2**16)


def aligned_empty(shape: Shape) -> Array:
    """Return a float32 array that starts at a multiple of 64 bytes, so that JAX on CPUs need not copy it.

    A large one lies on large pages where the kernel has them, which it clears in half the time.
    """
    count = math.prod(shape)
    if count > _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        # Private: the kernel gives shared memory large pages by another setting, usually off.
        pages = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(pages, np.float32).reshape(shape)
    room = np.empty(count + 16, np.float32)
    start = -room.ctypes.data % 64 // 4
    return room[start : start + count].reshape(shape)


def _transpose_into(out: Array, matrix: Array) -> None:
    """Write the transpose of a matrix to `out`, a matrix whose rows are contiguous."""
    if _is_large(matrix) and out.dtype == np.float32 and out.strides[1] == out.itemsize:
        written = cv2.transpose(matrix, dst=out)
        if np.shares_memory(written, out):
            return
    out[...] = matrix.T


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A map from arrays of a file to a parameter, and back.

    Attributes:
      forward: arrays → parameter.
      backward: parameter and the number of arrays → arrays.
      into: as `forward`, but writes to its first argument; None to copy what `forward` returns.
    """

    forward: Callable[..., Array]
    backward: Callable[[Array, int], Sequence[Array]]
    into: Callable[..., None] | None = None

    def __call__(self, *arrays: Array) -> Array:
        """Return `forward(*arrays)`."""
        return self.forward(*arrays)


SAME = Conversion(lambda array: array, lambda parameter, count: (parameter,))
TRANSPOSED = Conversion(
    transposed, lambda parameter, count: (transposed(parameter),), _transpose_into
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter.

    Attributes:
      names: the arrays that it is made of; "{}" stands for the number of the layer.
      convert: maps these arrays, of one layer, to the parameter of that layer; a `Conversion` can be written too.
      layers: number of layers that are stacked on a leading axis; 0 for a parameter without that axis.
      scanned: the file's arrays have the leading axis of layers themselves.
    """

    names: tuple[str, ...]
    convert: Callable[..., Array] = SAME
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

    def build(self, read: Read, shape: Shape) -> Array:
        """Return the parameter, which has `shape`; layers are read straight to their places, several at once."""
        out = aligned_empty(shape)
        if not self.layers:
            self._write(out, [read(name) for name in self.names])
            return out
        whole = [read(name) for name in self.names] if self.scanned else []

        def build_layer(i: int) -> None:
            layer = [array[i] for array in whole] or [read(n.format(i)) for n in self.names]
            self._write(out[i : i + 1].reshape(shape[1:]), layer)

        # NumPy and OpenCV release the lock for large arrays.
        threads = available_cores() if out.size > _LARGE else 1
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(build_layer, range(self.layers)))
        return out

    def _write(self, out: Array, arrays: Sequence[Array]) -> None:
        into = getattr(self.convert, "into", None)
        if into is None:
            out[...] = self.convert(*arrays)
        else:
            into(out, *arrays)

    def split(self, parameter: Array) -> dict[str, Array]:
        """Return the arrays of which `build` makes this parameter, by name.

        Raises:
          TypeError: the conversion has no way back.
        """
        if not isinstance(self.convert, Conversion):
            raise TypeError(f"{', '.join(self.names)}: no way back")
        back, count = self.convert.backward, len(self.names)
        if not self.layers:
            return dict(zip(self.names, back(parameter, count), strict=True))
        return {
            name.format(i): array
            for i in range(self.layers)
            for name, array in zip(self.names, back(parameter[i], count), strict=True)
        }


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
        f"{name}/kernel": Leaf((f"{prefix}.weight",), TRANSPOSED),
        f"{name}/bias": Leaf((f"{prefix}.bias",)),
    }


def stacked(leaves: Leaves, layers: int, root: str = "blocks/layers") -> Leaves:
    """Return the leaves of one block, whose names have "{}", as those of all blocks."""
    return {
        f"{root}/{name}": dataclasses.replace(leaf, layers=layers) for name, leaf in leaves.items()
    }


def split_heads(heads: int) -> Conversion:
    """Return the conversion of PyTorch's query, key and value matrices, each (C, C), to one (C, 3, heads, D).

    One matrix (3·C, C) that holds all of them is accepted too, and so are two, to (C, 2, heads, D).
    """

    def forward(*matrices: Array) -> Array:
        width = matrices[0].shape[1]
        joined = np.concatenate(matrices) if len(matrices) > 1 else matrices[0]
        return transposed(joined).reshape(width, -1, heads, width // heads)

    def backward(parameter: Array, count: int) -> Sequence[Array]:
        return np.split(transposed(parameter.reshape(len(parameter), -1)), count)

    def into(out: Array, *matrices: Array) -> None:
        columns, start = out.reshape(len(out), -1), 0
        for matrix in matrices:
            _transpose_into(columns[:, start : start + len(matrix)], matrix)
            start += len(matrix)

    return Conversion(forward, backward, into)


def split_head_biases(heads: int) -> Conversion:
    """Return the conversion of two or three biases (C,), or one (3·C,), to (3, heads, D)."""

    def forward(*biases: Array) -> Array:
        count = len(biases) if len(biases) > 1 else 3
        return np.concatenate(biases).reshape(count, heads, -1)

    return Conversion(forward, lambda parameter, count: np.split(parameter.reshape(-1), count))


def attention_out(prefix: str, heads: int, name: str = "attention/out") -> Leaves:
    """Return the output layer of attention, (C, C) in PyTorch and (heads, D, C) here."""
    merge = Conversion(
        lambda matrix: transposed(matrix).reshape(heads, -1, matrix.shape[0]),
        lambda parameter, count: (transposed(parameter.reshape(-1, parameter.shape[-1])),),
        lambda out, matrix: _transpose_into(out.reshape(-1, out.shape[-1]), matrix),
    )
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


def _patch_matrix(kernel: Array, count: int) -> Sequence[Array]:
    del count
    side = math.isqrt(len(kernel) // 3)
    return (kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1),)


# A patch convolution (C, 3, P, P) as the kernel (P·P·3, C) over (row, column, channel).
patch_kernel = Conversion(
    lambda matrix: matrix.transpose(2, 3, 1, 0).reshape(-1, matrix.shape[0]), _patch_matrix
)

# A table (N, C) of positions as (1, N, C).
POSITIONS = Conversion(lambda table: table[None], lambda parameter, count: (parameter[0],))


def split_leaves(leaves: Leaves, params: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of a file for parameters by their path in the tower."""
    return {
        name: array
        for path, leaf in leaves.items()
        for name, array in leaf.split(params[path]).items()
    }
