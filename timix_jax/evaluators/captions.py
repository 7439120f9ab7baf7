"""Captions that a model writes, against those of the data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from absl import logging

from timix_jax.data.loading.evaluation import image_batches
from timix_jax.data.loading.reference_captions import reference_captions
from timix_jax.data.loading.share import Share
from timix_jax.decoding import (
    LengthPenalty,
    Search,
    caption_search,
    caption_text,
    encode_prefixes,
    write_captions,
)
from timix_jax.distributed import processes
from timix_jax.errors import UserError, error_prefix
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.caption_metrics import NO_PTB, score_captions
from timix_jax.evaluators.placement import divisible, own_share
from timix_jax.evaluators.sweep import Arrays, Compute, jitted, sweep
from timix_jax.models.generative_protocols import GenerativeModel
from timix_jax.models.protocols import require

PLAIN = "_no_ptb"
"""End of the names of metrics over plain words, whose numbers are not those of publications."""


@dataclasses.dataclass(frozen=True)
class CaptionEvaluator(Evaluator):
    """BLEU-1 to 4, ROUGE-L, CIDEr-D and METEOR of the best caption of every image that has references.

    METEOR, and the words of publications (PTB), need Java and the extra `[caption]`; without them names end in
    `_no_ptb`, and the line of results says what is missing and why.

    Attributes:
      inputs: see `EvaluationInputs`.
      beams: hypotheses of the search; 1 for greedy decoding.
      max_tokens: longest caption in tokens, the end included; 0 for the longest that the decoder can write.
      min_tokens: shortest caption, the end included.
      length_penalty: `none`, `power` or `gnmt` (`decoding.LengthPenalty`).
      length_alpha: its α.
      prefix: first words of every caption, such as "a picture of".
    """

    beams: int = 3
    max_tokens: int = 0
    min_tokens: int = 1
    length_penalty: str = "gnmt"
    length_alpha: float = 0.6
    prefix: str = ""

    abilities: ClassVar[tuple[type, ...]] = (GenerativeModel,)
    panels: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Captions": {"cider": "CIDEr-D", f"cider{PLAIN}": "CIDEr-D, no PTB"}
    }

    def __post_init__(self) -> None:
        if len(self.inputs.source) == 0:
            raise UserError(f"Evaluation set {self.inputs.source.name!r} is empty")
        _ = self.search  # refuses values out of range

    @functools.cached_property
    def search(self) -> Search:
        """The search that its settings describe."""
        with error_prefix("config.eval.options.captions: "):
            return caption_search(
                self.inputs.tokenizer,
                self.generative_model,
                beams=self.beams,
                max_tokens=self.max_tokens,
                min_tokens=self.min_tokens,
                penalty=LengthPenalty(self.length_penalty, self.length_alpha),
            )

    @property
    def generative_model(self) -> GenerativeModel:
        """The model, known to have a decoder."""
        return require(self.inputs.model, GenerativeModel, "evaluator 'captions'")

    def check(self) -> None:
        """Read all captions, so that a set without any is refused before training."""
        self._references  # noqa: B018 - read once

    def run(self, params: Any) -> dict[str, float]:
        """Write a caption for each image and score them; CIDEr-D comes with its number of images."""
        written = self._written(params)
        index = [i for i, several in enumerate(self._references) if several]
        scores = score_captions([written[i] for i in index], [self._references[i] for i in index])
        for name, reason in scores.absent.items():
            logging.info("captions of %s: %s is absent: %s", self.inputs.source.name, name, reason)
        self._absent.update(scores.absent)
        end = PLAIN if scores.tokenizer == NO_PTB else ""
        metrics = {f"{name}{end}": value for name, value in scores.metrics.items()}
        return metrics | {"caption_images": float(scores.images)}

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return the metrics, what they were computed on, and what is missing."""
        end = PLAIN if f"cider{PLAIN}" in metrics else ""
        shown = {"bleu4": "BLEU-4", "rouge_l": "ROUGE-L", "meteor": "METEOR", "cider": "CIDEr-D"}
        found = [
            f"{title} {metrics[name + end]:.3f}"
            for name, title in shown.items()
            if name + end in metrics
        ]
        missing = "; ".join(f"{name} absent: {why}" for name, why in self._absent.items())
        tokenizer = f", {NO_PTB}" if end else ""
        images = f"{metrics['caption_images']:.0f} images{tokenizer}"
        return f"captions of {images}: {', '.join(found)}" + (f" ({missing})" if missing else "")

    @functools.cached_property
    def _absent(self) -> dict[str, str]:
        return {}

    @functools.cached_property
    def prefix_tokens(self) -> np.ndarray:
        """The prefix as the model reads it, int32 (1, P)."""
        inputs = self.inputs
        return encode_prefixes(inputs.tokenizer, [self.prefix], inputs.max_tokens)

    @functools.cached_property
    def _write(self) -> Compute:
        def write(params: Any, batch: Arrays) -> Arrays:
            prefix = jnp.repeat(jnp.asarray(self.prefix_tokens), len(batch["image"]), axis=0)
            found = write_captions(
                self.generative_model, params, batch["image"], prefix, self.search
            )
            return {"tokens": found.tokens[:, 0]}

        return jitted(write, self.inputs.mesh)

    def _written(self, params: Any) -> list[str]:
        mesh, source = self.inputs.mesh, self.inputs.source
        share = own_share(mesh)
        batches = image_batches(
            source,
            image_size=self.inputs.image_size,
            batch_size=divisible(self.inputs.batch_size, mesh),
            share=share,
        )
        written = [""] * len(source)
        for found in sweep(self._write, params, batches, share, mesh):
            for index, tokens in zip(
                found["index"][found["valid"]], found["tokens"][found["valid"]], strict=True
            ):
                text = caption_text(self.inputs.tokenizer, self.prefix_tokens[0], tokens)
                written[int(index)] = text
        return written

    @functools.cached_property
    def _references(self) -> list[list[str]]:
        """The captions of each image, none for some; each process reads a part, once."""
        source, own = self.inputs.source, own_share(self.inputs.mesh)
        references: list[list[str]] = [[] for _ in range(len(source))]
        for part in processes.gather(self._own_references(own)):
            if "error" in part:  # one process found it, and all must stop
                raise UserError(part["error"])
            for index, several in zip(
                self._examples(Share(*part["share"])), part["captions"], strict=True
            ):
                references[index] = [text for text in several if text.strip()]
        if not any(references):
            raise UserError(
                f"Evaluation set {source.name!r} has no captions to compare with: leave the evaluator 'captions' out."
            )
        return references

    def _own_references(self, share: Share) -> dict[str, Any]:
        """Return the captions of a share of the images, or the error in them."""
        try:
            captions = reference_captions(self.inputs.source, self._examples(share))
        except UserError as error:
            return {"error": str(error)}
        return {"share": share, "captions": captions}

    def _examples(self, share: Share) -> list[int]:
        indices = range(len(self.inputs.source))
        return [index for index in indices if index % share.parts in share.own]
