"""Square windows of patches: draw their size, find the extreme ones, paste between images.

Shapes are static although the window's side `r` is traced, so a new size never recompiles. Every operation is per row
of the batch, so results do not depend on the number of devices.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from timix_jax.errors import UserError


def window_bounds(grid: int, low: float = 0.35, high: float = 0.75) -> tuple[int, int]:
    """Return the smallest and largest window side, ⌊low·g⌋ and ⌊high·g⌋ clipped to 1…g (docs/method.md §3).

    Args:
      grid: patches per side, g.
      low, high: shares of the side, 0 < low <= high <= 1.

    Raises:
      UserError: the shares are in the wrong order or out of range.
    """
    if not 0.0 < low <= high <= 1.0:
        raise UserError(
            f"mixing window: low={low}, high={high} must satisfy 0 < low <= high <= 1 "
            "(shares of the image side)"
        )
    # The small term keeps a product such as 0.29 * 100 = 28.999… from losing a patch.
    smallest, largest = (math.floor(share * grid + 1e-9) for share in (low, high))
    return max(1, smallest), min(grid, max(1, largest))


def draw_window(key: jax.Array, grid: int, low: float = 0.35, high: float = 0.75) -> jax.Array:
    """Draw the batch's window side, int32 (), uniform over ⌊low·g⌋…⌊high·g⌋ inclusive (docs/method.md §3)."""
    smallest, largest = window_bounds(grid, low, high)
    return jax.random.randint(key, (), smallest, largest + 1, dtype=jnp.int32)


def extreme_windows(
    scores: jax.Array, r: jax.Array | int, grid: int, sizes: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Find the windows with the smallest and the largest sum of scores, stride 1 (docs/method.md §3).

    Ties go to the first window in row-major order. lax.switch chooses one reduce_window per size: differences of
    cumulative sums would cancel in float32 and swap windows that nearly tie.

    Args:
      scores: (B, N) relevance of the patches, row-major over the grid.
      r: int32 (), the side, within `sizes`.
      grid: patches per side, N = grid².
      sizes: smallest and largest possible r, from `window_bounds`.

    Returns:
      (low, high), each (B, 2) int32: row and column of the first patch.

    Raises:
      ValueError: the scores do not fill the grid, or a concrete side is outside `sizes`.
    """
    batch, patches = scores.shape
    if patches != grid * grid:
        raise ValueError(f"scores of {patches} patches do not fill a grid of {grid}x{grid}")
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    square = lax.stop_gradient(scores).reshape(batch, grid, grid)

    def of_size(side: int) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        def search(values: jax.Array) -> tuple[jax.Array, jax.Array]:
            zero = np.zeros((), values.dtype)
            sums = lax.reduce_window(values, zero, lax.add, (1, side, side), (1, 1, 1), "VALID")
            positions = grid - side + 1
            sums = sums.reshape(batch, positions * positions)
            low, high = (
                jnp.stack(jnp.divmod(found.astype(jnp.int32), positions), axis=-1)
                for found in (jnp.argmin(sums, axis=-1), jnp.argmax(sums, axis=-1))
            )
            return low, high

        return search

    smallest, largest = sizes
    if not isinstance(r, jax.core.Tracer) and not smallest <= int(r) <= largest:
        raise ValueError(f"window side {r} lies outside {smallest}..{largest}")
    branches = [of_size(side) for side in range(smallest, largest + 1)]
    return lax.switch(jnp.asarray(r, jnp.int32) - smallest, branches, square)


def window_mask(first: jax.Array, r: jax.Array | int, grid: int) -> jax.Array:
    """Return (B, N) bool, True inside the r × r window whose first patch is `first` (B, 2)."""
    return _offsets(first, r, grid)[2]


def paste_windows(
    tokens: jax.Array,
    partner_tokens: jax.Array,
    low: jax.Array,
    high_of_partner: jax.Array,
    r: jax.Array | int,
    grid: int,
) -> jax.Array:
    """Overwrite each row's window `low` with its partner's most relevant window (docs/method.md §3).

    Nothing is resized. Differentiable in both token arguments (reverse mode); the gradient is the inverse gather, not a
    scatter.

    Args:
      tokens, partner_tokens: (B, N, C), any dtype; row k of the second belongs to the partner of row k.
      low, high_of_partner: (B, 2) int32, first row and column of the two windows.
      r: int32 (), the side; may be traced.
      grid: patches per side, N = grid².

    Returns:
      (B, N, C) in the dtype of `tokens`.
    """
    return _paste(tokens, partner_tokens, low, high_of_partner, jnp.asarray(r, jnp.int32), grid)


def _offsets(
    first: jax.Array, r: jax.Array | int, grid: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return every patch's row and column within the window, and True if it lies inside, each (B, N)."""
    index = jnp.arange(grid * grid, dtype=jnp.int32)
    row = index // grid - first[:, :1]
    column = index % grid - first[:, 1:]
    inside = (row >= 0) & (row < r) & (column >= 0) & (column < r)
    return row, column, inside


def _shift(
    values: jax.Array, source: jax.Array, destination: jax.Array, r: jax.Array, grid: int
) -> tuple[jax.Array, jax.Array]:
    """Return the values (B, N, C) with window `source` moved to `destination`, and the mask of the destination."""
    row, column, inside = _offsets(destination, r, grid)
    index = (row + source[:, :1]) * grid + column + source[:, 1:]
    index = jnp.where(inside, index, 0)  # outside the window the value is not used
    moved = jnp.take_along_axis(values, index[..., None], axis=1, mode="clip")
    return moved, inside[..., None]


def _paste_forward(
    tokens: jax.Array,
    partner_tokens: jax.Array,
    low: jax.Array,
    high_of_partner: jax.Array,
    r: jax.Array,
    grid: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    moved, inside = _shift(partner_tokens, high_of_partner, low, r, grid)
    return jnp.where(inside, moved, tokens), (low, high_of_partner, r)


def _paste_backward(
    grid: int, windows: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, None, None, None]:
    low, high_of_partner, r = windows
    zero = jnp.zeros((), cotangent.dtype)
    to_tokens = jnp.where(window_mask(low, r, grid)[..., None], zero, cotangent)
    moved, inside = _shift(cotangent, low, high_of_partner, r, grid)
    return to_tokens, jnp.where(inside, moved, zero), None, None, None


def _paste_primal(
    tokens: jax.Array,
    partner_tokens: jax.Array,
    low: jax.Array,
    high_of_partner: jax.Array,
    r: jax.Array,
    grid: int,
) -> jax.Array:
    return _paste_forward(tokens, partner_tokens, low, high_of_partner, r, grid)[0]


_paste = jax.custom_vjp(_paste_primal, nondiff_argnums=(5,))
_paste.defvjp(_paste_forward, _paste_backward)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cut pixels (B, H, W, 3) into row-major patches (B, N, P·P·3), whose windows can be pasted like embeddings."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    if rows * patch != height or columns * patch != width:
        raise ValueError(f"image of {height}x{width} pixels is not a multiple of patch {patch}")
    blocks = images.reshape(batch, rows, patch, columns, patch, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def unpatchify(patches: jax.Array, patch: int) -> jax.Array:
    """Invert `patchify` for square images: (B, N, P·P·c) to (B, H, H, c)."""
    batch, count, width = patches.shape
    grid = math.isqrt(count)
    channels = width // (patch * patch)
    if grid * grid != count or channels * patch * patch != width:
        raise ValueError(
            f"{count} patches of {width} values are not a square image of patch {patch}"
        )
    blocks = patches.reshape(batch, grid, grid, patch, patch, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid * patch, grid * patch, channels)
