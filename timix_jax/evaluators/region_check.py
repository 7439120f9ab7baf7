"""Whether the regions of a source can be measured, before any training."""

import jax.numpy as jnp
import numpy as np

from timix_jax.data.loading.evaluation import region_boxes
from timix_jax.data.records.schema import CorruptExample
from timix_jax.data.sources import Source
from timix_jax.errors import UserError
from timix_jax.objectives.patch_labels import patch_labels

_CHECKED = 1000  # images; an evaluation set of more is taken to have a region that can be measured


def every_region_covers_its_image(source: Source, grid: int) -> bool:
    """Return True if each annotated box touches every patch, so that no score could be wrong."""
    annotated = source.annotated.tolist()
    for index in annotated[:_CHECKED]:
        try:
            boxes = region_boxes(source[index])
        except CorruptExample:
            return False  # the evaluation names it
        if not np.all(patch_labels(jnp.asarray(boxes[None]), grid), axis=-1).all():
            return False
    return len(annotated) <= _CHECKED


def require_regions(source: Source, evaluator: str) -> None:
    """Raise a UserError if the source has no boxes, which the named evaluator needs."""
    if not len(source.annotated):
        raise UserError(
            f"Evaluation set {source.name!r} has no boxes: "
            f"{evaluator} needs regions, so give it annotated data or leave the evaluator out."
        )
