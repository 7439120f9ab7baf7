"""Stems: from a patch's pixels to its embedding.

No stem reads pixels of two patches, so mixing embeddings equals mixing pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from timix_jax.models.transformer import activation, kernel_init

Array = jax.Array

STEMS = ("linear", "hierarchical")


def stem_stages(patch: int, width: int) -> tuple[tuple[int, int], ...]:
    """Return (side, channels) of the hierarchical stem's stages: each joins side·side cells into one with `channels`.

    The first stage turns a patch into 4·4 cells; the other two halve the side of that square.
    """
    return (patch // 4, width // 4), (2, width // 2), (2, width)


class HierarchicalStem(nn.Module):
    """Three small layers with LayerNorm and GELU between them, in place of the patch convolution.

    It follows the hMLP stem of Touvron et al. 2022, "Three things everyone should know about Vision Transformers" (§5),
    but doubles the channels from stage to stage. At a tenth of a block's cost it detects edges and spots of colour
    anywhere in a patch, which a linear stem leaves to the first blocks.
    """

    patch: int
    width: int
    act: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """Map pixels (B, N, P, P, 3) of N patches to embeddings (B, N, C)."""
        x = pixels
        stages = stem_stages(self.patch, self.width)
        for number, (side, channels) in enumerate(stages, 1):
            x = _join_cells(x, side)
            x = nn.Dense(
                channels, kernel_init=kernel_init, dtype=self.dtype, name=f"embed{number}"
            )(x)
            if number < len(stages):
                x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=f"norm{number}")(x)
                x = activation(self.act)(x)
        return x[:, :, 0, 0]


def _join_cells(x: Array, side: int) -> Array:
    """Map (B, N, S, S, K) to (B, N, S/side, S/side, side·side·K); values of a cell in (row, column, channel) order."""
    b, n, size, _, channels = x.shape
    cells = size // side
    x = x.reshape(b, n, cells, side, cells, side, channels).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, n, cells, cells, side * side * channels)
