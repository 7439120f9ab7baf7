"""The batch of a configuration as shapes, for what is said and compiled before there are data."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from timix_jax.training.build.data import needs_boxes, uses_regions


def abstract_batch(config: ConfigDict) -> dict[str, Any]:
    """Shapes and dtypes of the global batch of a step, as the input pipeline makes it."""
    size, tokens, regions = config.model.image.size, config.model.text.max_tokens, config.regions

    def images_and_texts(rows: int, *texts: int) -> dict[str, Any]:
        return {
            "image": jax.ShapeDtypeStruct((rows, size, size, 3), np.uint8),
            "tokens": jax.ShapeDtypeStruct((rows, *texts), np.int32),
        }

    def boxes(rows: int, mask: str) -> dict[str, Any]:
        shape = (rows, regions.max_regions)
        return {
            "boxes": jax.ShapeDtypeStruct((*shape, 4), np.float32),
            mask: jax.ShapeDtypeStruct(shape, np.bool_),
        }

    batch = images_and_texts(config.train.batch_size, tokens)
    if needs_boxes(config):
        batch |= boxes(config.train.batch_size, "box_mask")
    if uses_regions(config):
        rows, length = regions.batch_size, regions.max_tokens or tokens
        batch["regions"] = images_and_texts(rows, regions.max_regions, length) | boxes(rows, "mask")
    return batch
