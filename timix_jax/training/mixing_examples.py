"""The mixing sheet: a model's patch scores, windows and mixed images."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.mixing import JoinedCaptions, Mixer
from timix_jax.mixing.partners import Paired
from timix_jax.mixing.windows import patchify, unpatchify
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.base import prepare_forward
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.reporting.plots.pictures import mixing_sheet


def draw_mixing_sheet(
    path: str | os.PathLike[str],
    *,
    model: ImageTextModel,
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
      False for a mixer without windows (Mixup, CutMix), for which no file is written.
    """
    # One process draws, with its own rows: nothing may lie on the devices of the others.
    model = model.on_one_device()
    objective = dataclasses.replace(
        objective,
        mixer=_on_one_shard(objective.mixer),
        placement="extra",
        fraction=1.0,
        ramp=0,
        ends_at=None,
    )

    @jax.jit
    def mix(params: Any, batch: dict[str, Any]) -> Any:
        forward = prepare_forward(
            model,
            (objective,),
            params,
            batch,
            step=jnp.zeros((), jnp.int32),
            seed_key=jax.random.key(seed),
        )
        view = forward.view(objective.view.name)
        mixed, given = view.mixed, view.sample
        if mixed is None or given is None or mixed.window is None:
            return None
        scores = given.scores
        if scores is None:
            scores = jnp.zeros(forward.patches().shape[:2])
        # The mixer is a pure function of key, shapes and scores, so on pixels it finds the same windows.
        pixels = forward.pixels()
        patch = pixels.shape[1] // model.grid
        sample = given._replace(image=patchify(pixels, patch), scores=scores)
        at_pixels = objective.mixer(forward.stream("mix"), sample)
        assert at_pixels.image is not None
        image = unpatchify(at_pixels.image, patch)
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


def _on_one_shard(mixer: Mixer) -> Mixer:
    """Return the mixer for rows that lie on one device."""
    if isinstance(mixer, JoinedCaptions):
        return dataclasses.replace(mixer, mixer=_on_one_shard(mixer.mixer))
    return dataclasses.replace(mixer, shards=1) if isinstance(mixer, Paired) else mixer
