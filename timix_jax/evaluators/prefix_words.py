"""How well a decoder tells captions from the image and their first words."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.fusion_states import StateReader, rows_on_mesh
from timix_jax.evaluators.placement import divisible, split_over_all
from timix_jax.models.generative_protocols import GenerativeModel
from timix_jax.models.protocols import require
from timix_jax.objectives.views.prefix import Split, split_words
from timix_jax.objectives.vocabulary import Vocabulary
from timix_jax.objectives.word_loss import word_loss
from timix_jax.parallel.mesh import replicated


@dataclasses.dataclass(frozen=True)
class PrefixWordsEvaluator(Evaluator):
    """Perplexity and accuracy of the tokens after a prefix, the same prefixes at every evaluation.

    Captions are split between two words at random, as in PrefixLM; [SEP] counts as a token.
    """

    abilities: ClassVar[Sequence[type]] = (GenerativeModel,)

    def run(self, params: Any) -> dict[str, float]:
        """Measure `params` (on the mesh): plm_accuracy, a share, and plm_perplexity, exp of the mean cross-entropy."""
        reader = StateReader(self.inputs, "prefix_words")
        images, captions = reader.images(params).tokens, reader.captions(params)
        split = jax.tree.map(np.asarray, self._split(captions.tokens))
        mesh = self.inputs.mesh
        rows, count = divisible(self.inputs.batch_size, mesh), len(captions.owner)
        placing, totals = split_over_all(mesh), np.zeros(3)
        for start in range(0, count, rows):
            index = np.arange(start, start + rows)
            valid = index < count
            index = np.where(valid, index, 0)
            batch = rows_on_mesh(split._asdict(), index, placing)
            batch |= rows_on_mesh({"image": images}, captions.owner[index], placing)
            batch |= rows_on_mesh({"valid": valid}, np.arange(rows), placing)
            totals += [float(total) for total in self._compute(params, batch)]
        nats, hits, tokens = totals
        return {"plm_accuracy": hits / tokens, "plm_perplexity": math.exp(nats / tokens)}

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return accuracy in percent, and the perplexity."""
        accuracy, perplexity = metrics["plm_accuracy"], metrics["plm_perplexity"]
        return f"words after a prefix {100 * accuracy:.1f}% right, perplexity {perplexity:.4g}"

    def _split(self, tokens: np.ndarray) -> Split:
        tokenizer = self.inputs.tokenizer
        borders = tokenizer.word_borders
        vocabulary = Vocabulary(
            tokenizer.vocab_size,
            tokenizer.pad_id,
            end_id=tokenizer.sep_id,
            continues=borders.continues.tobytes(),
            unfinished=borders.unfinished.tobytes(),
        )
        split = functools.partial(split_words, vocabulary=vocabulary)
        parts: Split = jax.jit(split)(jax.random.key(0), tokens)
        return parts

    @functools.cached_property
    def _compute(self) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
        model = require(self.inputs.model, GenerativeModel, "evaluator 'prefix_words'")

        def sums(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
            text = model.encode_text(params, batch["prefix"])
            memory = model.image_memory(params, batch["image"])
            fused = model.fuse(params, text.tokens, text.mask, memory)
            read = model.decoder_memory(params, fused, text.mask)
            states = model.decode(params, batch["rest"], read)
            counted = batch["counted"] & batch["valid"][:, None]
            logits = functools.partial(model.decoder_logits, params)
            total = word_loss(logits, states, batch["labels"], counted)
            return total.hard, total.hits, total.count

        return jax.jit(sums, out_shardings=replicated(self.inputs.mesh))
