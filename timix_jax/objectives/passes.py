"""What a term of the loss runs through the model: declared by the term itself, counted by `training.flops`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timix_jax.models.dual_encoder import DualEncoder

Batch = Mapping[str, Any]
"""A global batch, or the shapes of one (`jax.ShapeDtypeStruct`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """Parts of the model that a number of rows go through; the parts that are not named are not run.

    Attributes:
      rows: images, captions or (image, caption) pairs, over the global batch.
      gradient: forward and backward, or forward only.
      stem: pixels to patch embeddings.
      blocks: the first so many blocks of the image tower.
      thinned: those blocks see only the patches that patch dropout keeps.
      projected: the pooled image token goes to the shared space.
      text_tokens: length of a caption that goes through the text tower and its projection; 0 = none does.
      predictor: the patch predictor.
      compared: embeddings of the other side that each row is compared with.
    """

    rows: int
    gradient: bool = True
    stem: bool = False
    blocks: int = 0
    thinned: bool = False
    projected: bool = False
    text_tokens: int = 0
    predictor: bool = False
    compared: int = 0


def image_training_pass(
    model: DualEncoder, rows: int, *, gradient: bool = True, stem: bool = False
) -> Pass:
    """Patch embeddings (with `stem` pixels) to image embeddings, with patch dropout if the model has it."""
    return Pass(
        rows=rows,
        gradient=gradient,
        stem=stem,
        blocks=model.image.depth,
        thinned=model.patch_dropout > 0,
        projected=True,
    )
