"""Views of mixed images: in addition to the clean images, or in their place (docs/method.md §3)."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.mixing import (
    JoinedCaptions,
    LabelsByAttention,
    Mixed,
    Mixer,
    MixesFeatures,
    MixesText,
    Sample,
)
from timix_jax.mixing.base import mixes_embeddings
from timix_jax.mixing.fraction import in_place, keep_clean, select_rows, take_rows
from timix_jax.mixing.partners import ANY_PARTNERS, Partners
from timix_jax.objectives.features import CLEAN, Feature
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.score_sources import ScoreSource
from timix_jax.objectives.views.base import Inputs, View
from timix_jax.objectives.views.phrases import PhrasesOf
from timix_jax.optim.schedule import linear_ramp

if TYPE_CHECKING:
    from timix_jax.models.protocols import ImageTextModel
    from timix_jax.objectives.forward import Forward

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SelectedRows(View):
    """Evenly spaced rows of the clean batch, which are mixed with each other."""

    fraction: float

    name: ClassVar[str] = "selected"
    has_own_images: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Choose the rows, the same in every step."""
        return Inputs(rows=select_rows(len(forward.batch["image"]), self.fraction))


@dataclasses.dataclass(frozen=True)
class MixedView(View):
    """A mixed batch; its subclasses differ in the role of the clean images.

    Attributes:
      mixer: the mixer; None for a batch that stays clean.
      score: source of the patch scores; None for mixers without scores.
      fraction: share of the batch that is mixed.
      ramp: steps over which γ grows from 0 to 1.
      until: first step with γ = 0 after mixing; None: mixing never ends.
      separators: token ids between the phrases of captions, for a mixer that joins phrases.
    """

    mixer: Mixer | None
    score: ScoreSource | None = None
    fraction: float = 1.0
    ramp: int = 0
    until: int | None = None
    separators: tuple[int, ...] = ()

    name: ClassVar[str] = "mixed"
    replaces_clean: ClassVar[bool]
    """True if the mixed images take the place of the clean ones in the contrastive loss."""

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the features that the scores are computed from."""
        if self.score is None:
            return ()
        views = [self.source, *(phrases.name for phrases in self._phrases)]
        return [feature for view in views for feature in self.score.reads(model, view)]

    @property
    def parts(self) -> Sequence[View]:
        """The views whose features are read."""
        return self._phrases

    @property
    def _phrases(self) -> tuple[PhrasesOf, ...]:
        """The phrases that are joined to the captions of the rows that are mixed, if the mixer joins phrases."""
        by_phrase = isinstance(self.mixer, JoinedCaptions) and self.mixer.by_phrase
        return (PhrasesOf(self.separators, self._scored),) if by_phrase else ()

    @property
    def _scored(self) -> float:
        """Share of the batch that is scored and mixed, a part of which may be restored."""
        return 1.0

    @property
    def has_own_images(self) -> bool:
        """False for a mixer that does not change images."""
        return self.mixer is None or self.mixer.space != "none"

    def gamma(self, step: Array) -> Array:
        """Return γ at a step: from 0 to 1 over the ramp, and 0 again from `until` on."""
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
        sample = self._sample(forward, rows)
        score = self.score if mixer.needs_scores else None
        if score:
            sample = sample._replace(scores=score(forward, self.source))
        for phrases in self._phrases:
            sample = sample._replace(
                phrases=forward.view(phrases.name).tokens,
                phrase_scores=score(forward, phrases.name) if score else None,
            )
        return mixer(forward.stream("mix"), sample), sample

    def _sample(self, forward: Forward, rows: np.ndarray | None) -> Sample:
        """Return these rows of the clean batch, without scores."""
        assert self.mixer is not None
        image = forward.pixels() if self.mixer.space == "pixels" else forward.patches()
        tokens = forward.batch["tokens"]
        if rows is not None:
            image, tokens = take_rows(image, rows), take_rows(tokens, rows)
        return Sample(image, tokens, pad_id=forward.model.pad_id)

    def _inputs(
        self,
        mixed: Mixed,
        sample: Sample,
        rows: np.ndarray | None,
        partners: Partners | None = None,
    ) -> Inputs:
        """Return the view; `partners` is the rule of the mixed batch if it is not the mixer's."""
        mixer = self.mixer
        assert mixer is not None
        if mixer.space == "none" and not (mixed.image is None and mixed.kept is None):
            raise ValueError(
                f"{type(mixer).__name__} has space='none' but returns Mixed.image or Mixed.kept, which a shared clean"
                " pass would ignore; declare space='patches' or 'pixels'"
            )
        pixels = mixer.space == "pixels"
        mix_embeddings = (
            (lambda image, text: mixer.mix_features(mixed, image, text))
            if isinstance(mixer, MixesFeatures)
            else None
        )
        mix_text = (
            (lambda text: mixer.mix_text(mixed, text)) if isinstance(mixer, MixesText) else None
        )
        return Inputs(
            images=mixed.image if pixels else None,
            patches=None if pixels else mixed.image,
            kept=mixed.kept,
            tokens=mixed.tokens,
            rows=rows,
            mix_embeddings=mix_embeddings,
            mix_text=mix_text,
            shares=Shares.of(mixed, partners or mixer.partners),
            mixed=mixed,
            sample=sample,
        )


class _OfSelectedRows(MixedView):
    """A view that scores and mixes evenly spaced rows, with each other only."""

    @property
    def parts(self) -> Sequence[View]:
        """The selected rows, unless the whole batch is mixed, and their phrases."""
        rows = () if self.fraction == 1 else (SelectedRows(self.fraction),)
        return (*rows, *super().parts)

    @property
    def _scored(self) -> float:
        return self.fraction

    @property
    def source(self) -> str:
        """Name of the view whose rows are scored and mixed."""
        return CLEAN if self.fraction == 1 else SelectedRows.name


@dataclasses.dataclass(frozen=True)
class ExtraView(_OfSelectedRows):
    """Mixed images next to the clean ones, as in the paper; fraction·B evenly spaced rows form a separate batch."""

    replaces_clean: ClassVar[bool] = False

    def make(self, forward: Forward) -> Inputs:
        """Mix the selected rows with each other."""
        rows = forward.view(self.source).rows
        return self._inputs(*self._mix(forward, rows), rows)


@dataclasses.dataclass(frozen=True)
class ReplacingView(MixedView):
    """Mixed images in place of clean ones; γ·fraction is the share of rows that is mixed.

    Without a mixer, or with γ = 0, every row stays clean and shows its own caption.
    """

    replaces_clean: ClassVar[bool] = True

    def make(self, forward: Forward) -> Inputs:
        """Mix the whole batch, then restore the rows that are not selected."""
        if self.mixer is None:
            patches = forward.patches(CLEAN)
            return Inputs(patches=patches, shares=Shares.own(len(patches)))
        mixed, sample = self._mix(forward, None)
        selected = _evenly_spaced(len(sample.image), self.gamma(forward.step) * self.fraction)
        return self._inputs(keep_clean(mixed, sample, selected), sample, None)


@dataclasses.dataclass(frozen=True)
class AmongView(_OfSelectedRows):
    """Mixed images in place of fraction·B evenly spaced rows, which are partners of each other only.

    Only these rows need scores. γ is the share of them that is mixed.

    Raises:
      UserError: the mixer mixes embeddings, or labels its images by their attention.
    """

    replaces_clean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mixer is not None and (
            mixes_embeddings(self.mixer) or isinstance(self.mixer, LabelsByAttention)
        ):
            raise UserError(
                f"mix.placement='among' needs a mixer of images that knows its labels, which"
                f" {type(self.mixer).__name__} is not; use 'replace' or 'extra'"
            )

    def make(self, forward: Forward) -> Inputs:
        """Mix the selected rows with each other, and put them in their places."""
        rows = forward.view(self.source).rows
        mixed, sample = self._mix(forward, rows)
        mixed = keep_clean(
            mixed, sample, _evenly_spaced(len(sample.image), self.gamma(forward.step))
        )
        if rows is None:
            return self._inputs(mixed, sample, None)
        whole = self._sample(forward, None)
        return self._inputs(in_place(mixed, whole, rows), whole, None, ANY_PARTNERS)


def _evenly_spaced(rows: int, share: Array) -> Array:
    """Return (rows,) bool, True for share·rows of them: ⌊row·share⌋ grows at exactly these."""
    row = jnp.arange(rows)
    return jnp.floor((row + 1) * share + 1e-4) > jnp.floor(row * share + 1e-4)


PLACEMENTS: dict[str, type[MixedView]] = {
    "extra": ExtraView,
    "replace": ReplacingView,
    "among": AmongView,
}


def placement(name: str) -> type[MixedView]:
    """Return the class of view for `mix.placement`; a UserError lists the known names."""
    if name not in PLACEMENTS:
        raise UserError(
            f"mix.placement={name!r} is unknown; use {' or '.join(map(repr, PLACEMENTS))}"
        )
    return PLACEMENTS[name]
