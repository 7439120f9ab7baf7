"""Position embeddings, adapted to another image grid or caption length."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError

Array = jax.Array


def interpolate_grid(embeddings: Array, grid: int) -> Array:
    """Interpolate a square grid of position embeddings bicubically.

    Args:
      embeddings: (1, g·g, C), row-major.
      grid: new number of patches per side.

    Returns:
      (1, grid·grid, C).

    Raises:
      UserError: the number of embeddings is not a square.
    """
    old = int(np.sqrt(embeddings.shape[1]))
    if old * old != embeddings.shape[1]:
        raise UserError(
            f"position embeddings of {embeddings.shape[1]} patches are not a square grid"
        )
    width = embeddings.shape[2]
    square = jnp.asarray(embeddings).reshape(old, old, width)
    resized = jax.image.resize(square, (grid, grid, width), "cubic", antialias=True)
    return resized.reshape(1, grid * grid, width)


def fit_position_embeddings(params: Any, abstract: Any) -> Any:
    """Return `params` with the position embeddings of both towers fitted to the shapes in `abstract`.

    The image grid is interpolated. For the text, the first positions are kept; more than were trained cannot be made
    up. Parameters without position embeddings at `image/pos_embed` and `text/pos_embed` stay as they are.

    Raises:
      UserError: the text is longer than the one that was trained.
    """
    fitted = dict(params)
    for name, fit in (("image", _fit_grid), ("text", _fit_length)):
        towers = [tree.get(name, {}) for tree in (params, abstract)]
        if all("pos_embed" in tower for tower in towers):
            saved, wanted = (tower["pos_embed"] for tower in towers)
            fitted[name] = {**towers[0], "pos_embed": fit(saved, wanted.shape[1])}
    return fitted


def _fit_grid(embeddings: Any, patches: int) -> Any:
    same = embeddings.shape[1] == patches
    return embeddings if same else interpolate_grid(embeddings, int(np.sqrt(patches)))


def _fit_length(embeddings: Any, tokens: int) -> Any:
    if embeddings.shape[1] < tokens:
        raise UserError(
            f"config.model.text.max_tokens={tokens} is more than the {embeddings.shape[1]} of the "
            "run named by config.init_from; use at most that"
        )
    return embeddings[:, :tokens]
