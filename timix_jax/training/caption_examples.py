"""The caption sheet: what a model writes about the first images of an evaluation set."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.data.loading.evaluation import image_batches
from timix_jax.data.loading.reference_captions import reference_captions
from timix_jax.data.sources.part import PartialSource
from timix_jax.decoding import caption_text, write_captions
from timix_jax.evaluators.captions import CaptionEvaluator
from timix_jax.reporting.plots.captions import caption_sheet

EXAMPLES = 10


def draw_caption_sheet(
    path: str | os.PathLike[str], evaluator: CaptionEvaluator, params: Any, title: str
) -> None:
    """Draw ten images with captions written as the evaluator writes them, on one device.

    Args:
      path: the PNG file.
      evaluator: has the model, the images and the search.
      params: weights, on the host.
      title: heading.
    """
    inputs, prefix = evaluator.inputs, evaluator.prefix_tokens
    model = evaluator.generative_model.on_one_device()
    count = min(EXAMPLES, len(inputs.source))
    source = PartialSource(inputs.source, 0, count, f"first={count}")
    (batch,) = image_batches(source, image_size=inputs.image_size, batch_size=count)

    @jax.jit
    def write(params: Any, images: jax.Array) -> jax.Array:
        rows = jnp.repeat(jnp.asarray(prefix), count, axis=0)
        return write_captions(model, params, images, rows, evaluator.search).tokens[:, 0]

    tokens = np.asarray(write(params, batch["image"]))
    references = reference_captions(source, range(count))
    caption_sheet(
        path,
        images=batch["image"],
        captions=[caption_text(inputs.tokenizer, prefix[0], row) for row in tokens],
        references=[several[0] if several else "" for several in references],
        title=title,
    )
