"""The contrastive loss of mixed images with soft targets (docs/method.md §§3, 4)."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from timix_jax.errors import UserError
from timix_jax.mixing import Mixed, Mixer
from timix_jax.mixing.fraction import keep_clean, select_rows, take_rows
from timix_jax.mixing.targets import TargetName
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.vit import normalise_pixels
from timix_jax.objectives.base import Array, Forward, Objective
from timix_jax.objectives.pairs.mixed_target import MixedTarget
from timix_jax.objectives.pairs.pair_loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.pairs.similarities import Similarities, similarities
from timix_jax.objectives.passes import Batch, Pass, image_training_pass
from timix_jax.objectives.score_sources import ScoreSource
from timix_jax.objectives.unmixed import Unmixed
from timix_jax.optim.schedule import linear_ramp

Placement = Literal["extra", "replace"]


@dataclasses.dataclass(frozen=True)
class MixedContrastive(Objective):
    """L_mix of the mixed images.

    placement="extra": mixed images are a second view beside the clean ones; γ weighs their loss, and with
    `fraction` f the evenly spaced f·B rows form a batch of their own.
    placement="replace": mixed images take the place of clean ones in the one contrastive loss; γ·f is then the share of
    rows that is mixed, the others keep the identity as target. At γ = 0 this is the plain contrastive loss, as which
    (`unmixed.Unmixed`) it goes on after the end.

    Attributes:
      mixer: what mixes.
      score: where the patch scores come from; None for mixers that need none.
      ramp_steps: γ grows 0 → 1 over this many steps.
      until_step: mixing ends with this step (γ = 0); None = it never does.
      pairs: the loss over all pairs, the same as of the clean batch.
    """

    mixer: Mixer
    score: ScoreSource | None
    weight: float = 1.0
    target: TargetName = "hard"
    beta: float = 0.5
    label_smoothing: float = 0.0
    placement: Placement = "extra"
    fraction: float = 1.0
    ramp_steps: int = 0
    until_step: int | None = None
    pairs: PairLoss = DENSE_SOFTMAX

    name: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        """Checks what cannot work together."""
        if self.target not in get_args(TargetName):
            raise UserError(
                f"mix.target={self.target!r} is unknown; use one of {', '.join(get_args(TargetName))}"
            )
        if self.placement not in ("extra", "replace"):
            raise UserError(
                f"mix.placement={self.placement!r} is unknown; use 'extra' or 'replace'"
            )
        if self.placement == "replace" and self.target != "hard":
            raise UserError(
                f"mix.target={self.target!r} needs the clean similarities, which mix.placement='replace' "
                "does not compute; use mix.target='hard' or mix.placement='extra'"
            )
        for name in ("beta", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"mix.{name}={getattr(self, name)}: a share, use 0 to 1")
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"mix.fraction={self.fraction} is not a share of the batch: use 0 < f <= 1"
            )
        if self.mixer.needs_scores and self.score is None:
            raise UserError("this mixer needs mix.score, the source of the patch scores")

    @property
    def needs_clean(self) -> bool:
        """The extra view is compared with, and scored by, the clean pass."""
        return self.placement == "extra"

    @property
    def trains_clean(self) -> bool:
        """The clean pass gives it constants: scores, and similarities for the target."""
        return False

    @property
    def capture(self) -> int | None:
        """The block that the score source reads."""
        return self.score.capture if self.score and self.needs_clean else None

    @property
    def ends_at(self) -> int | None:
        """The end of mixing."""
        return self.until_step

    @property
    def successor(self) -> Objective | None:
        """The extra view goes without one; in place of the clean images their own loss goes on."""
        if self.placement == "extra":
            return None
        return Unmixed(self.weight, self.label_smoothing, self.pairs)

    def passes(self, model: DualEncoder, batch: Batch) -> Sequence[Pass]:
        """The scores, and the mixed images through the tower and against the captions."""
        rows = int(batch["image"].shape[0])
        if self.placement == "extra":
            rows = len(select_rows(rows, self.fraction))
        # In the clean images' place the mixed pixels go through the stem instead of those, which are counted.
        stem = self.mixer.space == "pixels" and self.placement == "extra"
        view = image_training_pass(model, rows, stem=stem)
        passes = [view, Pass(rows=rows, compared=rows)]
        if self.mixer.needs_scores and self.score is not None:
            passes += self.score.passes(rows, clean=self._scores_from_clean(model))
        return passes

    def gamma(self, step: Array) -> Array:
        """γ at a step: 0 → 1 over the ramp, 0 again from `until_step`."""
        ramp = linear_ramp(step, self.ramp_steps)
        return ramp if self.until_step is None else jnp.where(step < self.until_step, ramp, 0.0)

    def mix(self, model: DualEncoder, forward: Forward) -> tuple[Mixed, Array]:
        """The mixed inputs of the whole batch, and the scores (B, N) that chose the windows (zeros without)."""
        scores = self._scores(model, forward)
        pixels = self.mixer.space == "pixels"
        inputs = normalise_pixels(forward.batch["image"]) if pixels else forward.patches
        mixed = self.mixer(forward.stream("mix"), inputs, scores)
        if self.placement == "replace":
            share = self.gamma(forward.step) * self.fraction
            row = jnp.arange(len(inputs))
            # Evenly spaced rows: the count of whole shares grows at exactly share·B of them.
            selected = jnp.floor((row + 1) * share + 1e-4) > jnp.floor(row * share + 1e-4)
            mixed = keep_clean(mixed, inputs, selected)
        return mixed, jnp.zeros(forward.patches.shape[:2]) if scores is None else scores

    def __call__(self, model: DualEncoder, forward: Forward) -> tuple[Array, dict[str, Array]]:
        """L_mix (times γ where it is an extra view), with λ, γ and the window for the log."""
        gamma = self.gamma(forward.step)
        if self.placement == "extra" and self.fraction < 1:
            forward = _take_rows(forward, select_rows(len(forward.patches), self.fraction))
        mixed, _ = self.mix(model, forward)
        log = {"lambda": jnp.mean(mixed.lam), "gamma": gamma}
        if mixed.window is not None:
            log["window"] = mixed.window.astype(jnp.float32)
        if self.placement == "replace":
            return self._loss(model, forward, mixed, None), log
        if forward.image is None:
            raise UserError("mix.placement='extra' needs the clean images' features")
        clean = similarities(model, forward, forward.image.embedding).constant()
        return gamma * self._loss(model, forward, mixed, clean), log

    def _scores(self, model: DualEncoder, forward: Forward) -> Array | None:
        if not self.mixer.needs_scores or self.score is None:
            return None
        if not self._scores_from_clean(model):
            # A clean pass that another objective asked for has captured no tokens for these, or not of all patches.
            forward = forward._replace(image=None)
        return self.score(model, forward)

    def _scores_from_clean(self, model: DualEncoder) -> bool:
        """Whether the clean pass is asked for what the scores read, and sees every patch."""
        return self.placement == "extra" and not model.patch_dropout

    def _loss(
        self, model: DualEncoder, forward: Forward, mixed: Mixed, clean: Similarities | None
    ) -> Array:
        pixels = self.mixer.space == "pixels"
        patches = model.embed_patches(forward.params, mixed.inputs) if pixels else mixed.inputs
        kept = model.draw_kept(forward.stream("patch_dropout/mixed"), len(patches))
        image = model.encode_patches(forward.params, patches, kept=kept).embedding
        target = MixedTarget(
            self.target,
            mixed.lam,
            mixed.partner,
            self.mixer.partners,
            clean,
            self.beta,
            self.label_smoothing,
        )
        return self.pairs.mixed(similarities(model, forward, image), target)


def _take_rows(forward: Forward, rows: np.ndarray) -> Forward:
    """The batch that these rows of the main batch make; annotated regions are a batch of their own and stay out."""
    batch = {name: value for name, value in forward.batch.items() if name != "regions"}
    taken = jax.tree.map(
        lambda x: take_rows(x, rows), (batch, forward.patches, forward.image, forward.text)
    )
    batch, patches, image, text = taken
    return forward._replace(batch=batch, patches=patches, image=image, text=text)
