"""The contrastive loss in whose place that of mixed images was, from the end of mixing on."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp

from timix_jax.mixing.partners import Partners
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives.base import Array, Forward, Objective
from timix_jax.objectives.pairs.mixed_target import MixedTarget
from timix_jax.objectives.pairs.pair_loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.similarities import similarities
from timix_jax.objectives.passes import Batch, Pass, image_training_pass


@dataclasses.dataclass(frozen=True)
class Unmixed(Objective):
    """L_mix of a batch in which every row stays clean: λ = 1 and π(k) = k; nothing is scored or mixed.

    Attributes:
      label_smoothing, pairs: those of the mixed images' loss, which this one goes on with.
    """

    weight: float = 1.0
    label_smoothing: float = 0.0
    pairs: PairLoss = DENSE_SOFTMAX

    name: ClassVar[str] = "itc"

    def passes(self, model: DualEncoder, batch: Batch) -> Sequence[Pass]:
        """The clean images through the tower and against the captions."""
        rows = batch["image"].shape[0]
        return image_training_pass(model, rows), Pass(rows=rows, compared=rows)

    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """The loss; nothing else for the log."""
        rows = len(forward.patches)
        # Not Forward.image: patch dropout goes on with the draws of the mixed images' pass.
        kept = model.draw_kept(forward.stream("patch_dropout/mixed"), rows)
        image = model.encode_patches(forward.params, forward.patches, kept=kept).embedding
        target = MixedTarget(
            "hard",
            jnp.ones(rows, jnp.float32),
            jnp.arange(rows, dtype=jnp.int32),
            Partners("flip", shards=rows),  # every row with itself: nothing goes between devices
            label_smoothing=self.label_smoothing,
        )
        return self.pairs.mixed(similarities(model, forward, image), target), {}
