"""How well hidden words are told from the rest of the caption and the image."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.fusion_states import CaptionStates, StateReader, rows_on_mesh
from timix_jax.evaluators.placement import divisible, split_over_all
from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import require
from timix_jax.parallel.mesh import replicated


class Hidden(NamedTuple):
    """Captions with hidden words, for all M captions.

    Attributes:
      tokens: int32 (M, T) with [MASK] in the place of hidden words.
      hidden: bool (M, T).
    """

    tokens: np.ndarray
    hidden: np.ndarray


@dataclasses.dataclass(frozen=True)
class MaskedWordsEvaluator(Evaluator):
    """Accuracy and perplexity of hidden words, the same words at every evaluation.

    Attributes:
      rate: share of the words that is hidden, at least one per caption; all of them behind [MASK].

    Raises:
      UserError: the vocabulary has no [MASK], or the rate is not a share.
    """

    rate: float = 0.15

    abilities: ClassVar[Sequence[type]] = (FusionModel,)
    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Hidden words": {"mlm_accuracy": "accuracy"}
    }

    def __post_init__(self) -> None:
        if self.inputs.tokenizer.mask_id is None:
            raise UserError(
                "evaluator 'masked_words' hides words behind [MASK], which the vocabulary lacks: leave it out of"
                " config.eval.evaluators"
            )
        if not 0 < self.rate <= 1:
            raise UserError(
                f"config.eval.options.masked_words.rate={self.rate}: a share above 0, at most 1"
            )

    def run(self, params: Any) -> dict[str, float]:
        """Measure `params` (on the mesh): mlm_accuracy, a share, and mlm_perplexity, exp of the mean cross-entropy."""
        images, captions = self._reader.images(params), self._reader.captions(params)
        hidden = hide_words(
            captions.tokens, self.inputs.tokenizer.special_ids, self._mask_id, self.rate
        )
        nats, hits, count = self._sums(params, images.tokens, captions, hidden)
        if not count:
            raise UserError(f"evaluation set {self.inputs.source.name!r}: no caption has a word")
        return {"mlm_accuracy": hits / count, "mlm_perplexity": math.exp(nats / count)}

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return accuracy in percent, and the perplexity."""
        accuracy, perplexity = metrics["mlm_accuracy"], metrics["mlm_perplexity"]
        return f"hidden words {100 * accuracy:.1f}% right, perplexity {perplexity:.4g}"

    @property
    def _mask_id(self) -> int:
        mask_id = self.inputs.tokenizer.mask_id
        assert mask_id is not None  # checked when built
        return mask_id

    @functools.cached_property
    def _reader(self) -> StateReader:
        return StateReader(self.inputs, "masked_words")

    def _sums(
        self, params: Any, image_tokens: np.ndarray, captions: CaptionStates, hidden: Hidden
    ) -> tuple[float, int, int]:
        """Return Σ cross-entropy, hits and number of the hidden words of all captions."""
        mesh = self.inputs.mesh
        split = split_over_all(mesh)
        rows = divisible(self.inputs.batch_size, mesh)
        most = max(1, int(hidden.hidden.sum(axis=1).max(initial=0)))
        # Hidden positions come first, in order.
        positions = np.argsort(~hidden.hidden, axis=1, kind="stable")[:, :most].astype(np.int32)
        texts = {
            "tokens": hidden.tokens,
            "positions": positions,
            "labels": np.take_along_axis(captions.tokens, positions, axis=1),
            "counted": np.take_along_axis(hidden.hidden, positions, axis=1),
        }
        totals = np.zeros(3)
        count = len(captions.owner)
        for start in range(0, count, rows):
            index = np.arange(start, start + rows)
            valid = index < count
            index = np.where(valid, index, 0)
            batch = rows_on_mesh(texts, index, split)
            batch |= rows_on_mesh({"image": image_tokens}, captions.owner[index], split)
            batch |= rows_on_mesh({"valid": valid}, np.arange(rows), split)
            totals += [float(total) for total in self._compute(params, batch)]
        return totals[0], int(totals[1]), int(totals[2])

    @functools.cached_property
    def _compute(self) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
        model = require(self.inputs.model, FusionModel, "evaluator 'masked_words'")

        def sums(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
            text = model.encode_text(params, batch["tokens"])
            memory = model.image_memory(params, batch["image"])
            fused = model.fuse(params, text.tokens, text.mask, memory).text
            at = jnp.take_along_axis(fused, batch["positions"][..., None], axis=1)
            logp = jax.nn.log_softmax(model.word_logits(params, at))
            own = jnp.take_along_axis(logp, batch["labels"][..., None], axis=-1)[..., 0]
            counted = batch["counted"] & batch["valid"][:, None]
            hits = (jnp.argmax(logp, axis=-1) == batch["labels"]) & counted
            return -jnp.sum(jnp.where(counted, own, 0)), jnp.sum(hits), jnp.sum(counted)

        return jax.jit(sums, out_shardings=replicated(self.inputs.mesh))


def hide_words(
    tokens: np.ndarray, special: Sequence[int], mask_id: int, rate: float, seed: int = 0
) -> Hidden:
    """Hide each word with probability `rate`, and at least one of each caption that has words.

    Args:
      tokens: int32 (M, T).
      special: ids that are no words.
      mask_id: what hides a word.
      rate: share of the words.
      seed: of the draw.
    """
    words = ~np.isin(tokens, special)
    chance = np.where(words, np.random.default_rng(seed).random(tokens.shape), 2.0)
    least = chance == chance.min(axis=1, keepdims=True)
    hidden = words & ((chance < rate) | least)
    return Hidden(np.where(hidden, mask_id, tokens).astype(np.int32), hidden)
