"""Image-text matching (ITM, docs/method.md §5): does a caption belong to an image, told from hard negatives?"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.base import INTERNAL, Array, Objective, Term
from timix_jax.objectives.contrastive import similarities
from timix_jax.objectives.exchange import take_global, take_local
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.fusion import dropout_key, fusion_model, image_memory
from timix_jax.objectives.hard_negatives import (
    Candidates,
    Negatives,
    check_candidates,
    draw_negatives,
    same_pairs,
)
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.optim.schedule import linear_ramp

IMAGE_IDS = "image_id"
"""Field of the batch with an int32 (B,) per image, equal for rows of the same image."""


@dataclasses.dataclass(frozen=True)
class ImageTextMatching(Objective):
    """Each pair, each caption with a wrong image, each image with a wrong caption: 3·B pairs, two classes.

    A wrong image is drawn with probability ∝ exp(hardness·s), s its similarity to the caption over τ, a constant;
    captions likewise. Rows of the same image and rows with the same caption are never negatives of each other.

    Attributes:
      hardness: 1 in ALBEF; 0 draws uniformly (the concentration β of arXiv 2010.04592). With 1 and calibrated
        similarities, how similar a pair is tells nothing about whether it matches: there is nothing to learn until the
        fusion layers see more than both towers do.
      hardness_steps: it grows from 0 over this many steps, so that matching first learns what both towers know.
      candidates: "global": negatives come from the whole batch, the same on any number of devices; "device": from the
        rows on the same device, which then sends no tokens.
      pairs: its method and mesh say how the tokens of negatives travel (`contrastive.method`).
    """

    hardness: float = 1.0
    hardness_steps: int = 0
    candidates: Candidates = "global"
    pairs: PairLoss = dataclasses.field(default=DENSE_SOFTMAX, metadata=INTERNAL)

    name: ClassVar[str] = "itm"

    def __post_init__(self) -> None:
        """Check the hardness and the name of the candidates."""
        check_candidates(self.candidates)
        if not 0 <= self.hardness < math.inf:
            raise UserError(
                f"config.loss.itm.hardness={self.hardness}: give 0 for negatives drawn uniformly, 1 for ALBEF's"
            )

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return both towers of the clean batch.

        Raises:
          UserError: the model has no fusion encoder.
        """
        fusion_model(model, self.name)
        return [Feature("image"), Feature("text")]

    def __call__(self, forward: Forward) -> Term:
        """Return the mean cross-entropy of all pairs; log the accuracy and the share of rows with negatives.

        Raises:
          UserError: the batch, or a device's part of it, is a single pair.
        """
        model = fusion_model(forward.model, self.name)
        image, text = forward.image(), forward.text()
        images, texts = self._negatives(forward)
        memory = image_memory(forward, model)
        exchanged = self._take(image.tokens, images.index)
        other_memory = model.image_memory(forward.params, exchanged)
        other_text = self._take((text.tokens, text.mask), texts.index)

        # Both captions of an image read the same keys and values.
        both = jax.tree.map(_alternating, (text.tokens, text.mask), other_text)
        key = dropout_key(forward, model, "itm")
        own = self._logits(forward, model, both, memory, key)
        key = dropout_key(forward, model, "itm/images")
        wrong_image = self._logits(forward, model, (text.tokens, text.mask), other_memory, key)
        matched, wrong_text = own.reshape(-1, 2, 2).swapaxes(0, 1)
        always = jnp.ones(len(matched), bool)
        return _cross_entropy(
            jnp.stack([matched, wrong_image, wrong_text]),
            jnp.stack([always, images.found, texts.found]),
        )

    @jax.named_scope("hard_negatives")
    def _negatives(self, forward: Forward) -> tuple[Negatives, Negatives]:
        """Return a wrong image for each caption, and a wrong caption for each image."""
        shards = self._shards
        rows = len(forward.batch["tokens"])
        if rows // shards < 2:
            where = "" if shards == 1 else f" over {shards} devices, of candidates='device'"
            raise UserError(
                f"config.loss.itm: one image of a batch of {rows}{where} has no wrong caption; raise"
                " config.train.batch_size to at least 2"
            )
        s = similarities(forward).constant()
        barred = same_pairs(forward.batch["tokens"], forward.batch.get(IMAGE_IDS), shards)
        hardness = self.hardness * linear_ramp(forward.step, self.hardness_steps)
        by_text, by_image = (hardness * x.matrix() for x in (s.transposed(), s))
        images = draw_negatives(forward.stream("itm/images"), by_text, barred)
        texts = draw_negatives(forward.stream("itm/texts"), by_image, barred)
        return images, texts

    @property
    def _shards(self) -> int:
        return self.pairs.reduction.shards if self.candidates == "device" else 1

    def _take(self, arrays: Any, index: Array) -> Any:
        if self.candidates == "device":
            return take_local(arrays, index, self._shards)
        return take_global(arrays, index, self.pairs.reduction)

    @staticmethod
    def _logits(
        forward: Forward,
        model: FusionModel,
        text: tuple[Array, Array],
        memory: Any,
        key: Array | None,
    ) -> Array:
        fused = model.fuse(forward.params, *text, memory, key=key)
        return model.itm_logits(forward.params, fused.text)


def _alternating(one: Array, other: Array) -> Array:
    """Return rows one[0], other[0], one[1], …"""
    return jnp.stack([one, other], axis=1).reshape(-1, *one.shape[1:])


def _cross_entropy(logits: Array, counted: Array) -> Term:
    """Return the mean over the counted pairs.

    Args:
      logits: (3, B, 2): matching pairs, captions with wrong images, images with wrong captions.
      counted: (3, B) bool, False for rows that found no negative.
    """
    match = jnp.array([1, 0, 0])[:, None]
    logp = jax.nn.log_softmax(logits)
    losses = -jnp.where(match == 1, logp[..., 1], logp[..., 0])
    right = (logits[..., 1] > logits[..., 0]) == (match == 1)
    count = jnp.sum(counted)
    return Term(
        jnp.sum(jnp.where(counted, losses, 0)) / count,
        {
            "itm_accuracy": jnp.sum(right & counted) / count,
            "itm_negatives": jnp.mean(counted[1:].astype(jnp.float32)),
        },
    )
