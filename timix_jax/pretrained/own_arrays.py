"""Arrays that a published layout has no place for, which `timix_jax.export` puts next to it.

CLIP's patch convolution has no bias: an export adds ours to the positions, and keeps both as they were here. So the
same weights come back, bit for bit, unless another program has changed them since.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from timix_jax.pretrained.layouts import Contents
from timix_jax.pretrained.leaves import Array, Leaf, Leaves
from timix_jax.pretrained.weight_files import OWN, Shape

BIAS, POSITIONS = "image/patch_embed/bias", "image/pos_embed"
_PREDICTOR = "patch_predictor/"


def own_name(parameter: str) -> str:
    """Return the name under which a parameter is kept."""
    return f"{OWN}/{parameter}"


def with_own_arrays(contents: Contents, shapes: Mapping[str, Shape]) -> Contents:
    """Return the contents with what was put next to the weights, if anything was."""
    kept = [name.removeprefix(f"{OWN}/") for name in shapes if name.startswith(f"{OWN}/")]
    predictor = {n: Leaf((own_name(n),)) for n in kept if n.startswith(_PREDICTOR)}
    image = contents.image
    if {BIAS, POSITIONS} <= set(kept) and "pos_embed" in image:
        image = image | _unfolded(image)
    return dataclasses.replace(contents, image=image, scalars=contents.scalars | predictor)


def _unfolded(image: Leaves) -> Leaves:
    table, bias = image["pos_embed"], image["patch_embed/bias"]
    own = (own_name(BIAS), own_name(POSITIONS))
    count = len(table.names)

    def is_unchanged(rows: Array, kept_bias: Array, kept_positions: Array) -> bool:
        # Shapes alone are known when a leaf's shape is asked for.
        return rows.shape == kept_positions.shape and np.array_equal(
            kept_positions + kept_bias, rows
        )

    def positions(*arrays: Array) -> Array:
        rows = table.convert(*arrays[:count])
        return arrays[-1] if is_unchanged(rows, *arrays[-2:]) else rows

    def biases(*arrays: Array) -> Array:
        rows, rest = table.convert(*arrays[:count]), arrays[count:-2]
        return arrays[-2] if is_unchanged(rows, *arrays[-2:]) else bias.convert(*rest)

    return {
        "pos_embed": Leaf((*table.names, *own), positions),
        "patch_embed/bias": Leaf((*table.names, *bias.names, *own), biases),
    }
