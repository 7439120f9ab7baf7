"""A safetensors file mapped into memory, so that its arrays are read where they are used, without a copy."""

import math
from collections.abc import Collection
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

_DTYPES = {
    **{"F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16)},
    **{"BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32)},
    **{"I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8)},
    "BOOL": np.dtype(np.bool_),
}


def map_arrays(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return name → read-only view of each array of `names`; the file stays mapped as long as a view lives.

    Raises:
      SafetensorError: the header is damaged, or the file has another length than it says.
      ValueError: an array of a kind that NumPy lacks.
    """
    with safetensors.safe_open(file, "np") as opened:  # checks the header
        slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
        layout = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")  # the length of the header
    whole = np.memmap(file, np.uint8, "r").view(np.ndarray)  # whose slices are cheaper
    arrays = {}
    for name, (kind, shape) in layout.items():  # one after another, without gaps
        if kind not in _DTYPES:
            raise ValueError(f"{name} has the type {kind}")
        size = math.prod(shape) * _DTYPES[kind].itemsize
        if name in names:
            arrays[name] = whole[start : start + size].view(_DTYPES[kind]).reshape(shape)
        start += size
    return arrays
