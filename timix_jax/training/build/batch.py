"""The batch of a step as shapes, which are needed before there are data."""

from typing import Any

import jax
import numpy as np

from timix_jax.training.build.settings import Settings


def abstract_batch(settings: Settings) -> dict[str, Any]:
    """Return the shapes and dtypes of the global batch of a step, as the input pipeline makes it."""
    size, tokens = settings.model.image.size, settings.model.text.max_tokens
    batch_size, regions = settings.train.batch_size, settings.regions

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

    batch = images_and_texts(batch_size, tokens)
    if settings.more_captions:
        shape = (batch_size, settings.more_captions, tokens)
        batch["captions"] = jax.ShapeDtypeStruct(shape, np.int32)
    if settings.mix.boxes_of:
        batch |= boxes(batch_size, "box_mask")
    if settings.uses_image_ids:
        batch["image_id"] = jax.ShapeDtypeStruct((batch_size,), np.int32)
    if settings.uses_regions:
        rows, length = regions.batch_size, regions.max_tokens or tokens
        batch["regions"] = images_and_texts(rows, regions.max_regions, length) | boxes(rows, "mask")
    return batch
