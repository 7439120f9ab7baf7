"""Captions of which some words are replaced by regions that show them (cross-modal CutMix, docs/method.md §5)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax

from timix_jax.errors import UserError
from timix_jax.models.protocols import ReplacedWords, WordReplacing, require
from timix_jax.objectives.views.base import Inputs, View
from timix_jax.objectives.views.names import Replacements, draw_replacements, names_of
from timix_jax.objectives.views.region_patches import embed_regions
from timix_jax.objectives.vocabulary import Vocabulary

if TYPE_CHECKING:
    from timix_jax.objectives.forward import Forward

Array = jax.Array

READER = "config.loss.cmc"


@dataclasses.dataclass(frozen=True)
class RegionWords(View):
    """The clean images with captions that show regions in place of some names.

    The regions are those of `batch["regions"]`, of all devices. A region is cut out and shrunk to one patch, which
    passes the stem and the model's projection.

    Attributes:
      vocabulary: says which ids are words, and where words begin.
      rate: share of the names that are replaced.
    """

    vocabulary: Vocabulary
    rate: float = 0.5

    name: ClassVar[str] = "region_words"
    has_own_images: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Replace names in all captions."""
        drawn = self.draw(forward)
        words = self.region_words(forward)[drawn.region]
        return Inputs(tokens=forward.batch["tokens"], words=ReplacedWords(drawn.at, words))

    def draw(self, forward: Forward) -> Replacements:
        """Return which words show which region in this step, drawn once.

        Raises:
          UserError: the batch has no regions.
        """
        regions = forward.batch.get("regions")
        if regions is None:
            raise UserError(
                f"{READER} replaces words by annotated regions, which the batch lacks: give data with regions and"
                " config.regions.batch_size"
            )

        def draw() -> Replacements:
            texts = regions["tokens"]
            names = names_of(
                texts.reshape(-1, texts.shape[-1]), regions["mask"].reshape(-1), self.vocabulary
            )
            key, tokens = forward.stream("cmc"), forward.batch["tokens"]
            return draw_replacements(key, tokens, names, self.vocabulary, rate=self.rate)

        return forward.once(("replacements", self), draw)

    def region_words(self, forward: Forward) -> Array:
        """Return each region as the embedding of a word, (P·R, Ct)."""
        model = require(forward.model, WordReplacing, READER)
        regions = forward.batch["regions"]
        patches = embed_regions(forward.model, forward.params, regions["image"], regions["boxes"])
        return model.patches_to_words(forward.params, patches)
