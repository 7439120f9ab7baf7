"""Sources of the patch scores that mixers read (docs/method.md §2).

A new source is one class, here or in its own file, and one line in `SCORES`; `config.mix.score` chooses it. No gradient
flows through a source: it declares its features as constants.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax

from timix_jax.errors import UserError
from timix_jax.mixing import scores
from timix_jax.mixing.fraction import take_rows
from timix_jax.models.protocols import (
    ClsAttending,
    ImageTextModel,
    PatchPredicting,
    PatchProjecting,
    require,
)
from timix_jax.objectives.features import Feature

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

Array = jax.Array


class ScoreSource(abc.ABC):
    """Scores the relevance of each patch to the caption."""

    name: ClassVar[str]
    trained: ClassVar[str] = ""
    """Name of the objective that trains the scores; empty if they need no training."""

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the features of a view that `__call__` reads; none by default.

        Raises:
          UserError: the model lacks something that the source needs.
        """
        del model, view
        return ()

    @abc.abstractmethod
    def __call__(self, forward: Forward, view: str) -> Array:
        """Return scores (n, N) float32, higher for patches that matter more to the caption; no gradient flows."""

    def __eq__(self, other: object) -> bool:
        """Compare classes, since sources have no settings."""
        return type(self) is type(other)

    def __hash__(self) -> int:
        """Hash consistently with `==`."""
        return hash(type(self))


class Predictor(ScoreSource):
    """The trained patch predictor; the tower runs only up to its block."""

    name: ClassVar[str] = "tpp"
    trained: ClassVar[str] = "pta"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the predictor's block and the captions."""
        tpp = require(model, PatchPredicting, "mix.score='tpp'")
        return (
            Feature("image", view, block=tpp.tpp_layer, gradient=False),
            Feature("text", view, gradient=False),
        )

    def __call__(self, forward: Forward, view: str) -> Array:
        """Return z-scores of log p₁."""
        model = require(forward.model, PatchPredicting, "mix.score='tpp'")
        site = model.patch_tokens(forward.block(model.tpp_layer, view))
        logp = model.patch_logp(
            *jax.lax.stop_gradient((forward.params, site, forward.text(view).cls))
        )
        return scores.from_logp(logp)


class Similarity(ScoreSource):
    """Cosine similarity of projected patches and caption."""

    name: ClassVar[str] = "similarity"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the patches of the whole tower, and the captions."""
        require(model, PatchProjecting, "mix.score='similarity'")
        return (
            Feature("image", view, all_patches=True, gradient=False),
            Feature("text", view, gradient=False),
        )

    def __call__(self, forward: Forward, view: str) -> Array:
        """Return standardised cosines."""
        model = require(forward.model, PatchProjecting, "mix.score='similarity'")
        params, patches, text = jax.lax.stop_gradient(
            (
                forward.params,
                forward.image(view, all_patches=True).patches,
                forward.text(view).embedding,
            )
        )
        return scores.from_similarity(model.project_patches(params, patches), text)


class Attention(ScoreSource):
    """Attention of [CLS] in the last block: the scores of SMMix."""

    name: ClassVar[str] = "attention"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the input of the last block."""
        attending = require(model, ClsAttending, "mix.score='attention'")
        return (Feature("image", view, block=attending.attention_input, gradient=False),)

    def __call__(self, forward: Forward, view: str) -> Array:
        """Return standardised attention."""
        model = require(forward.model, ClsAttending, "mix.score='attention'")
        tokens = forward.block(model.attention_input, view)
        params, tokens = jax.lax.stop_gradient((forward.params, tokens))
        return scores.from_attention(model.cls_attention(params, tokens))


class Random(ScoreSource):
    """Random scores."""

    name: ClassVar[str] = "random"

    def __call__(self, forward: Forward, view: str) -> Array:
        """Return standard normal scores."""
        batch, patches = forward.patches(view).shape[:2]
        return scores.random(forward.stream("scores"), batch, patches)


class Oracle(ScoreSource):
    """The annotated boxes, as an upper bound for experiments."""

    name: ClassVar[str] = "oracle"

    def __call__(self, forward: Forward, view: str) -> Array:
        """Return the share of each patch that lies in a box."""
        boxes, mask = forward.batch["boxes"], forward.batch["box_mask"]
        rows = forward.view(view).rows
        if rows is not None:
            boxes, mask = take_rows(boxes, rows), take_rows(mask, rows)
        return scores.from_boxes(boxes, mask, forward.model.grid)


SCORES: dict[str, type[ScoreSource]] = {
    "tpp": Predictor,
    "similarity": Similarity,
    "attention": Attention,
    "random": Random,
    "oracle": Oracle,
}


def build_score_source(name: str, model: ImageTextModel) -> ScoreSource:
    """Return the source with this name, checked against the model.

    Raises:
      UserError: the name is unknown, or the model lacks what the source reads.
    """
    if name not in SCORES:
        raise UserError(f"mix.score={name!r} is unknown; use one of {', '.join(SCORES)}")
    source = SCORES[name]()
    source.reads(model, "clean")
    return source
