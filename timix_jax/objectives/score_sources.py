"""Where the patch scores of a mixer come from (docs/method.md §2).

A new source is one class here or in a file of its own, and one line in `SCORES`; it is chosen by `config.mix.score`.
No gradient flows through a source: its features are constants.
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
    """How relevant each patch is to the caption."""

    name: ClassVar[str]
    trained: ClassVar[str] = ""
    """Name of the objective without which its scores stay arbitrary; empty for none."""

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return what it reads of a view; nothing by default.

        Raises:
          UserError: the model lacks what it needs.
        """
        del model, view
        return ()

    @abc.abstractmethod
    def __call__(self, forward: Forward, view: str) -> Array:
        """Return scores (n, N) float32, the higher, the more relevant to the caption; no gradient flows."""

    def __eq__(self, other: object) -> bool:
        """Sources have no settings."""
        return type(self) is type(other)

    def __hash__(self) -> int:
        """Hash as `==` compares."""
        return hash(type(self))


class Predictor(ScoreSource):
    """The trained patch predictor; the tower runs up to its block only."""

    name: ClassVar[str] = "tpp"
    trained: ClassVar[str] = "pta"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return the predictor's block, and the captions."""
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
    """Cosine of the projected patches with the caption."""

    name: ClassVar[str] = "similarity"

    def reads(self, model: ImageTextModel, view: str) -> Sequence[Feature]:
        """Return all patches of the whole tower, and the captions."""
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
    """The boxes themselves, for experiments."""

    name: ClassVar[str] = "oracle"

    def __call__(self, forward: Forward, view: str) -> Array:
        """Return the share of each patch that a box covers."""
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
    """Return the source called `name`, if the model has what it needs.

    Raises:
      UserError: an unknown name, or a model that lacks what the source reads.
    """
    if name not in SCORES:
        raise UserError(f"mix.score={name!r} is unknown; use one of {', '.join(SCORES)}")
    source = SCORES[name]()
    source.reads(model, "clean")
    return source
