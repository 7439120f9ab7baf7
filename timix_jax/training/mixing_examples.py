"""The mixing sheet of a model: its scores, its windows, and the images that it is trained on."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.mixing.partners import Paired
from timix_jax.mixing.windows import patchify, unpatchify
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.vit import normalise_pixels
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.reporting.plots.pictures import mixing_sheet
from timix_jax.training.step import shared_passes


def draw_mixing_sheet(
    path: str | os.PathLike[str],
    *,
    model: DualEncoder,
    objective: MixedContrastive,
    params: Any,
    batch: dict[str, Any],
    captions: Sequence[str],
    examples: int,
    seed: int,
    title: str,
) -> bool:
    """Mix one batch as the objective does, on pixels, and draw its first rows.

    Args:
      path: the PNG file.
      model: scores the patches, with `params`.
      objective: provides the mixer and the score source; shown at full strength, whatever the step.
      params: weights, in full on the host or on this process's devices.
      batch: this process's part of a training batch: image uint8 (B, H, W, 3), tokens, and boxes for the oracle.
      captions: B captions.
      examples: rows of the sheet.
      seed: determines the window size.
      title: heading.

    Returns:
      False, without a file, for a mixer without windows (Mixup, CutMix).
    """
    # One process draws, with its own rows: nothing may lie on the devices of the others.
    model = dataclasses.replace(model, layout=None, microbatches=1)
    mixer = objective.mixer
    if isinstance(mixer, Paired):
        mixer = dataclasses.replace(mixer, shards=1)
    objective = dataclasses.replace(
        objective, mixer=mixer, placement="extra", fraction=1.0, ramp_steps=0, until_step=None
    )

    @jax.jit
    def mix(params: Any, batch: dict[str, Any]) -> Any:
        forward = shared_passes(
            model,
            (objective,),
            params,
            None,
            batch,
            step=jnp.zeros((), jnp.int32),
            seed_key=jax.random.key(seed),
        )
        mixed, scores = objective.mix(model, forward)
        if mixed.window is None:
            return None
        # The same windows over again on the pixels: the mixer is a pure function of key, shapes and scores.
        pixels = patchify(normalise_pixels(batch["image"]), model.image.patch)
        at_pixels = objective.mixer(forward.stream("mix"), pixels, scores)
        image = unpatchify(at_pixels.inputs, model.image.patch)
        return jnp.round((image + 1) * 127.5).astype(jnp.uint8), mixed, scores

    drawn = jax.tree.map(
        np.asarray, mix(params, {k: v for k, v in batch.items() if k != "regions"})
    )
    if drawn is None:
        return False
    image, mixed, scores = drawn
    rows = np.arange(min(examples, len(image)))
    partner = mixed.partner[rows]
    images = np.asarray(batch["image"])
    mixing_sheet(
        path,
        images=images[rows],
        partners=images[partner],
        mixed=image[rows],
        scores=scores[rows],
        low=mixed.low[rows],
        high_partner=mixed.high[partner],
        window=int(mixed.window),
        lam=mixed.lam[rows],
        captions=[captions[int(k)] for k in rows],
        partner_captions=[captions[int(k)] for k in partner],
        title=title,
    )
    return True
