"""Mixed images as a view of the batch, in two kinds: beside the clean images, or in their place (docs/method.md §3)."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.mixing import Mixed, Mixer, MixesFeatures, Sample
from timix_jax.mixing.fraction import keep_clean, select_rows, take_rows
from timix_jax.objectives.features import CLEAN, Feature
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.score_sources import ScoreSource
from timix_jax.objectives.views.base import Inputs, View
from timix_jax.optim.schedule import linear_ramp

if TYPE_CHECKING:
    from timix_jax.models.protocols import ImageTextModel
    from timix_jax.objectives.forward import Forward

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SelectedRows(View):
    """Evenly spaced rows of the clean batch, which are mixed among themselves."""

    fraction: float

    name: ClassVar[str] = "selected"
    own_images: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Choose the rows; they are the same in every step."""
        return Inputs(rows=select_rows(len(forward.batch["image"]), self.fraction))


@dataclasses.dataclass(frozen=True)
class MixedView(View):
    """A mixed batch.

    Attributes:
      mixer: what mixes; None for a batch that stays clean.
      score: where the patch scores come from; None for mixers that need none.
      fraction: share of the batch that is mixed.
      ramp: steps over which γ grows 0 → 1.
      until: γ = 0 from this step on; None = never.
    """

    mixer: Mixer | None
    score: ScoreSource | None = None
    fraction: float = 1.0
    ramp: int = 0
    until: int | None = None

    name: ClassVar[str] = "mixed"
    beside: ClassVar[bool]
    """True for a view beside the clean one, False for one in its place."""

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return what the scores are made of."""
        return () if self.score is None else self.score.reads(model, self.source)

    @property
    def own_images(self) -> bool:
        """False for a mixer that leaves images as they are."""
        return self.mixer is None or self.mixer.space != "none"

    def gamma(self, step: Array) -> Array:
        """Return γ at a step: 0 → 1 over the ramp, 0 again from `until` on."""
        ramp = linear_ramp(step, self.ramp)
        return ramp if self.until is None else jnp.where(step < self.until, ramp, 0.0)

    @property
    def source(self) -> str:
        """Name of the view whose rows are scored and mixed."""
        return CLEAN

    @abc.abstractmethod
    def make(self, forward: Forward) -> Inputs:
        """Make the view."""

    def _mix(self, forward: Forward, rows: np.ndarray | None) -> tuple[Mixed, Sample]:
        mixer = self.mixer
        assert mixer is not None
        scores = self.score(forward, self.source) if self.score and mixer.needs_scores else None
        image = forward.pixels() if mixer.space == "pixels" else forward.patches()
        tokens = forward.batch["tokens"]
        if rows is not None:
            image, tokens = take_rows(image, rows), take_rows(tokens, rows)
        sample = Sample(image, tokens, scores, forward.model.pad_id)
        return mixer(forward.stream("mix"), sample), sample

    def _inputs(self, mixed: Mixed, sample: Sample, rows: np.ndarray | None) -> Inputs:
        mixer = self.mixer
        assert mixer is not None
        pixels = mixer.space == "pixels"
        pooled = (
            (lambda image, text: mixer.mix_features(mixed, image, text))
            if isinstance(mixer, MixesFeatures)
            else None
        )
        return Inputs(
            images=mixed.image if pixels else None,
            patches=None if pixels else mixed.image,
            kept=mixed.kept,
            tokens=mixed.tokens,
            rows=rows,
            pooled=pooled,
            shares=Shares.of(mixed, mixer.partners),
            mixed=mixed,
            scores=sample.scores,
        )


@dataclasses.dataclass(frozen=True)
class ExtraView(MixedView):
    """Mixed images as a second view, as in the paper: the evenly spaced fraction·B rows form a batch of their own."""

    beside: ClassVar[bool] = True

    @property
    def parts(self) -> Sequence[View]:
        """The rows that are mixed, where they are not all."""
        return () if self.fraction == 1 else (SelectedRows(self.fraction),)

    @property
    def source(self) -> str:
        """Name of the view whose rows are scored and mixed."""
        return CLEAN if self.fraction == 1 else SelectedRows.name

    def make(self, forward: Forward) -> Inputs:
        """Mix the selected rows among themselves."""
        rows = forward.view(self.source).rows
        return self._inputs(*self._mix(forward, rows), rows)


@dataclasses.dataclass(frozen=True)
class ReplacingView(MixedView):
    """Mixed images in the place of clean ones: γ·fraction is the share of rows that is mixed.

    Without a mixer, and where γ is 0, every row stays clean and shows its own caption.
    """

    beside: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Mix the whole batch and put the rows that are not selected back."""
        if self.mixer is None:
            patches = forward.patches(CLEAN)
            return Inputs(patches=patches, shares=Shares.own(len(patches)))
        mixed, sample = self._mix(forward, None)
        share = self.gamma(forward.step) * self.fraction
        row = jnp.arange(len(sample.image))
        # Evenly spaced rows: the count of whole shares grows at exactly share·B of them.
        selected = jnp.floor((row + 1) * share + 1e-4) > jnp.floor(row * share + 1e-4)
        return self._inputs(keep_clean(mixed, sample, selected), sample, None)


PLACEMENTS: dict[str, type[MixedView]] = {"extra": ExtraView, "replace": ReplacingView}


def placement(name: str) -> type[MixedView]:
    """Return the kind of view called `name`; a UserError lists the known ones."""
    if name not in PLACEMENTS:
        raise UserError(
            f"mix.placement={name!r} is unknown; use {' or '.join(map(repr, PLACEMENTS))}"
        )
    return PLACEMENTS[name]
