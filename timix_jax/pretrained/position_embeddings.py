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
    towers = [tree.get(name, {}) for tree in (params, abstract) for name in ("image", "text")]
    if any("pos_embed" not in tower for tower in towers):
        return params
    image, text = params["image"], params["text"]
    patches = abstract["image"]["pos_embed"].shape[1]
    if image["pos_embed"].shape[1] != patches:
        fitted = interpolate_grid(image["pos_embed"], int(np.sqrt(patches)))
        image = {**image, "pos_embed": fitted}
    tokens = abstract["text"]["pos_embed"].shape[1]
    if text["pos_embed"].shape[1] < tokens:
        raise UserError(
            f"config.model.text.max_tokens={tokens} is more than the {text['pos_embed'].shape[1]} of the "
            "run named by config.init_from; use at most that"
        )
    text = {**text, "pos_embed": text["pos_embed"][:, :tokens]}
    return {**params, "image": image, "text": text}
