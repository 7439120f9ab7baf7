"""`config.mix`: the mixer, the view of mixed images and their loss."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from timix_jax.data.loading.examples import BoxesOf
from timix_jax.errors import UserError, error_prefix
from timix_jax.mixing import Mixer, build_mixer, with_captions
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Objective, build_objective
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.targets import Hard
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.objectives.views.mixed import ReplacingView, placement

# Score source → the boxes that it reads.
_BOXES: dict[str, BoxesOf] = {"oracle": "named", "clutter": "clutter"}


@dataclasses.dataclass(frozen=True)
class MixSettings:
    """`config.mix`.

    Attributes:
      mixer: "none" for no mixing.
      options: mixer → its settings.
      captions: "own", "joined" or "phrases", what the captions of mixed images are.
      separators: words between the phrases of a caption.
      score: where patch scores come from.
      weight, target, beta, label_smoothing, temperature, placement, fraction: those of the objective "mix".
      ramp, until: durations, of the ramp of γ and until the end of mixing.
    """

    mixer: str
    options: Mapping[str, Mapping[str, Any]]
    captions: str
    separators: tuple[str, ...]
    score: str
    weight: float
    target: str
    beta: float
    label_smoothing: float
    temperature: float
    placement: str
    fraction: float
    ramp: str
    until: str

    @classmethod
    def read(cls, config: ConfigDict) -> "MixSettings":
        """Read the group."""
        return cls(**config.mix.to_dict())

    @property
    def enabled(self) -> bool:
        """True if images are mixed."""
        return self.mixer != "none"

    @property
    def replaces(self) -> bool:
        """True if mixed images take the place of the clean ones.

        Raises:
          UserError: the placement is unknown.
        """
        with error_prefix("config."):
            return self.enabled and placement(self.placement).replaces_clean

    @property
    def mixer_options(self) -> dict[str, Any]:
        """The settings of the mixer."""
        return dict(self.options.get(self.mixer, {}))

    @property
    def within_shard(self) -> bool:
        """True if images are mixed only with others on the same device."""
        return bool(self.mixer_options.get("within_shard", False))

    @property
    def boxes_of(self) -> BoxesOf:
        """The boxes that the main batch must carry, from which `mix.score` takes the scores.

        Raises:
          UserError: both the boxes of what captions name and those of clutter.
        """
        wanted: list[BoxesOf] = [
            boxes for score, boxes in _BOXES.items() if self.enabled and score in self.score
        ]
        if len(wanted) > 1:
            raise UserError(
                f"config.mix.score={self.score!r}: a batch carries the boxes of one of {', '.join(_BOXES)}"
            )
        return wanted[0] if wanted else ""


def build_mix(
    mix: MixSettings,
    model: ImageTextModel,
    pairs: PairLoss,
    to_steps: Callable[..., int],
    separators: tuple[int, ...] = (),
) -> Objective | None:
    """Build the loss of mixed images; None without a mixer. `separators` are token ids."""
    mixer = _build_mixer(mix, model, pairs.reduction.shards)
    if mixer is None:
        return None
    with error_prefix("config."):
        mixer = with_captions(mixer, mix.captions)
    until = to_steps(mix.until, field="config.mix.until")
    # "100%" is no end, so that no program is compiled for steps without mixing.
    ends_at = None if until >= to_steps("100%", field="config.mix.until") else until
    with error_prefix("config."):
        objective = build_objective(
            "mix",
            mixer=mixer,
            score=build_score_source(mix.score, model) if mixer.needs_scores else None,
            weight=mix.weight,
            target=mix.target,
            beta=mix.beta,
            label_smoothing=mix.label_smoothing,
            temperature=mix.temperature,
            placement=mix.placement,
            fraction=mix.fraction,
            ramp=to_steps(mix.ramp, field="config.mix.ramp"),
            separators=separators,
            ends_at=ends_at,
            pairs=pairs,
        )
        objective.reads(model)  # refuses a model that lacks what the mixer needs
    return objective


def _build_mixer(mix: MixSettings, model: ImageTextModel, shards: int) -> Mixer | None:
    name, options = mix.mixer, mix.mixer_options
    with error_prefix(f"config.mix.options.{name}: " if options else "config.mix.mixer: "):
        return build_mixer(name, grid=model.grid, shards=shards, **options)


def build_clean_successor(mix: MixSettings, starts_at: int, pairs: PairLoss) -> Objective:
    """Build the contrastive loss that follows a replacing one once mixing has ended."""
    # The same kind of view, in which nothing is mixed, so that patch dropout continues its random stream.
    return build_objective(
        "itc",
        weight=mix.weight,
        starts_at=starts_at,
        view=ReplacingView(mixer=None),
        target=Hard(mix.label_smoothing),
        pairs=pairs,
    )
