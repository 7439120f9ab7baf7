"""The contrastive loss of mixed images with soft targets (docs/method.md §§3, 4)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError
from timix_jax.mixing import (
    JoinedCaptions,
    LabelsByAttention,
    Mixed,
    Mixer,
    MixesNegatives,
    composes_captions,
)
from timix_jax.mixing.fraction import take_rows
from timix_jax.models.protocols import ClsAttending, ImageTextModel, require
from timix_jax.objectives.base import INTERNAL, Objective, Term
from timix_jax.objectives.contrastive import similarities
from timix_jax.objectives.features import Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.targets import Target, build_target
from timix_jax.objectives.score_sources import ScoreSource
from timix_jax.objectives.views.base import View
from timix_jax.objectives.views.mixed import MixedView, placement

Array = jax.Array

_BY_ATTENTION = "a mixer with labels by attention (mix.mixer)"


@dataclasses.dataclass(frozen=True)
class MixedContrastive(Objective):
    """L_mix of the mixed images.

    With placement="extra", mixed images come in addition to the clean ones: γ scales their loss, and with
    `fraction` f < 1 the f·B evenly spaced rows form a separate batch. With placement="replace", mixed images take the
    place of clean ones in the only contrastive loss: γ·f is the share of rows that is mixed, and the other rows keep
    the identity as target. With placement="among", f·B evenly spaced rows are partners of each other only and take the
    place of clean ones; γ is the share of them that is mixed.

    Attributes:
      mixer: the mixer.
      score: source of the patch scores; None for mixers without scores.
      target: target of the mixed images' similarities, a key of `pairs.targets.TARGETS`.
      beta: β of the target "blend".
      label_smoothing: smoothing of the hard part of the target.
      temperature: constant τ of L_mix next to clean images; 0: the model's, which L_mix then trains too.
      placement: key of `views.mixed.PLACEMENTS`.
      fraction: f, share of the batch that is mixed.
      ramp: steps over which γ grows from 0 to 1; from `ends_at` on γ is 0.
      separators: ids of the tokens between the phrases of a caption, for captions joined by phrases.
      pairs: the loss over all pairs, the same as for the clean batch.
    """

    mixer: Mixer = dataclasses.field(metadata=INTERNAL)
    score: ScoreSource | None = dataclasses.field(default=None, metadata=INTERNAL)
    target: str = "hard"
    beta: float = 0.5
    label_smoothing: float = 0.0
    temperature: float = 0.0
    placement: str = "extra"
    fraction: float = 1.0
    ramp: int = 0
    separators: tuple[int, ...] = dataclasses.field(default=(), metadata=INTERNAL)
    pairs: PairLoss = dataclasses.field(default=DENSE_SOFTMAX, metadata=INTERNAL)

    name: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        """Check the settings, and that they fit together."""
        target, kind = self._target, placement(self.placement)
        if kind.replaces_clean and target.reads_reference:
            raise UserError(
                f"mix.target={self.target!r} needs the clean similarities, which mix.placement={self.placement!r} "
                "does not compute; use mix.target='hard' or mix.placement='extra'"
            )
        for name in ("beta", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"mix.{name}={getattr(self, name)}: a share, use 0 to 1")
        one_positive = composes_captions(self.mixer) or isinstance(self.mixer, MixesNegatives)
        if one_positive and (target.reads_reference or self.label_smoothing):
            raise UserError(
                f"mix.target={self.target!r} with mix.label_smoothing={self.label_smoothing}: mixed images and their"
                " captions are one positive pair each (as mix.captions='joined' or the mixer makes them); use 'hard'"
                " and 0"
            )
        if isinstance(self.mixer, MixesNegatives):
            name = type(self.mixer).__name__
            if kind.replaces_clean:
                raise UserError(
                    f"mix.placement={self.placement!r}: {name} adds negatives to the clean loss; use 'extra'"
                )
            if self.pairs.kind.name != "softmax":
                raise UserError(
                    f"contrastive.loss={self.pairs.kind.name!r}: {name} needs 'softmax'"
                )
        if self.temperature < 0 or (self.temperature and kind.replaces_clean):
            raise UserError(
                f"mix.temperature={self.temperature}: above 0, for the loss of images next to the clean ones"
                " (mix.placement='extra'), or 0 for the model's temperature"
            )
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"mix.fraction={self.fraction} is not a share of the batch: use 0 < f <= 1"
            )
        if self.mixer.needs_scores and self.score is None:
            raise UserError("this mixer needs patch scores: set mix.score")
        self._check_mixer(kind)

    def _check_mixer(self, kind: type[MixedView]) -> None:
        """Refuse settings that the mixer is not defined for."""
        mixer = self.mixer.mixer if isinstance(self.mixer, JoinedCaptions) else self.mixer
        name = type(mixer).__name__
        wanted = getattr(mixer, "scored_by", None)
        score = "" if self.score is None else self.score.title
        if wanted and {part.split(":")[-1] for part in score.split("+")} != {wanted}:
            raise UserError(
                f"mix.score={score!r}: {name} is defined by mix.score={wanted!r}; with other scores use"
                " mix.mixer='timix'"
            )
        if kind.replaces_clean and getattr(mixer, "mixes_whole_batch", False):
            raise UserError(
                f"mix.placement={self.placement!r} leaves some rows clean, for which the targets of {name} against"
                " mixtures do not hold; use mix.placement='extra'"
            )

    @functools.cached_property
    def _target(self) -> Target:
        return build_target(self.target, beta=self.beta, label_smoothing=self.label_smoothing)

    @functools.cached_property
    def view(self) -> MixedView:
        """The view of mixed images."""
        score = self.score if self.mixer.needs_scores else None
        kind = placement(self.placement)
        return kind(self.mixer, score, self.fraction, self.ramp, self.ends_at, self.separators)

    @property
    def views(self) -> Sequence[View]:
        """The view of mixed images."""
        return (self.view,)

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return the view's features, and those of the clean batch for a target that uses its predictions.

        Raises:
          UserError: the model lacks what the mixer's labels need.
        """
        reads = [Feature("image", self.view.name), Feature("text", self.view.name)]
        if isinstance(self.mixer, LabelsByAttention):
            block = require(model, ClsAttending, _BY_ATTENTION).attention_input
            reads.append(Feature("image", self.view.name, block=block, gradient=False))
        if self._target.reads_reference:
            clean = self.view.source
            reads += [Feature("image", clean, gradient=False), Feature("text", clean)]
        return reads

    def __call__(self, forward: Forward) -> Term:
        """Return L_mix, scaled by γ next to clean images; log λ, γ and the window."""
        inputs, gamma = forward.view(self.view.name), self.view.gamma(forward.step)
        mixed, shares = inputs.mixed, inputs.shares
        assert mixed is not None
        assert shares is not None
        if isinstance(self.mixer, LabelsByAttention):
            mixed = self.mixer.relabel(mixed, self._attention(forward))
            shares = Shares.of(mixed, self.mixer.partners)
        log = {"lambda": jnp.mean(mixed.lam), "gamma": gamma, **self._mixed_shares(forward, mixed)}
        if mixed.window is not None:
            log["window"] = mixed.window.astype(jnp.float32)
        reference = None
        if self._target.reads_reference:
            reference = similarities(forward, self.view.source).constant()
        s = similarities(forward, self.view.name)
        if self.temperature:
            s = s._replace(temperature=jnp.asarray(self.temperature, s.temperature.dtype))
        if isinstance(self.mixer, MixesNegatives):
            negatives = self.mixer.mix_negatives(mixed, s.image, s.text)
            temperature = jnp.asarray(self.mixer.temperature, s.temperature.dtype)
            loss = self.pairs.against(s._replace(temperature=temperature), negatives)
        else:
            by_caption = mixed.by_caption
            if by_caption is not None:
                # The loss treats both sides alike; transposed, the rows are the mixed captions.
                s = s.transposed_where(by_caption)
                if reference is not None:
                    reference = reference.transposed_where(by_caption)
            loss = self.pairs.mixed(s, self._target, shares, reference)
        return Term(loss if self.view.replaces_clean else gamma * loss, log)

    def _attention(self, forward: Forward) -> Array:
        """Return the attention (n, N) of [CLS] to the mixed images' patches, as a constant."""
        model = require(forward.model, ClsAttending, _BY_ATTENTION)
        tokens = forward.block(model.attention_input, self.view.name)
        params = jax.lax.stop_gradient(forward.params)
        return jax.lax.stop_gradient(model.cls_attention(params, jax.lax.stop_gradient(tokens)))

    def _mixed_shares(self, forward: Forward, mixed: Mixed) -> dict[str, Array]:
        """Return how much of what the step shows is mixed: shares of all its images, patches and captions.

        With placement="extra" the clean batch counts among what is shown. Patch dropout is not considered.
        """
        inputs = forward.view(self.view.name)
        pasted = 1 - mixed.lam if mixed.pasted is None else mixed.pasted
        clean = 0 if self.view.replaces_clean else len(forward.batch["image"])
        shown = clean + len(pasted)
        shares = {
            "mixed_images": jnp.sum(pasted > 0) / shown,
            "mixed_patches": jnp.sum(pasted) / shown,
        }
        if mixed.tokens is not None:
            own = forward.batch["tokens"]
            own = own if inputs.rows is None else take_rows(own, inputs.rows)
            shares["mixed_captions"] = jnp.sum((mixed.tokens != own).any(axis=1)) / shown
        elif mixed.by_caption is not None:
            shares["mixed_captions"] = jnp.sum(mixed.by_caption & (mixed.lam < 1)) / shown
        return shares
