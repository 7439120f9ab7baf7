"""`config.loss`, `config.contrastive` and `config.mix` as objectives."""

from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.mixing import Mixer, build_mixer
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Objective, build_objective, objectives_at
from timix_jax.objectives.pairs.kinds import loss_kind
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.pairs.targets import Hard
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.objectives.views.mixed import ReplacingView, placement
from timix_jax.parallel.layout import Layout


def build_pair_loss(config: ConfigDict, layout: Layout | None) -> PairLoss:
    """Return the loss over all image-text pairs of `config.contrastive`, on the mesh of `layout`."""
    c = config.contrastive
    with error_prefix("config."):
        reduction = PairReduction(c.method, c.chunk, layout.mesh if layout else None)
        return PairLoss(loss_kind(c.loss), reduction)


def build_objectives(
    config: ConfigDict, model: ImageTextModel, layout: Layout | None, to_steps: Callable[..., int]
) -> list[Objective]:
    """Return the terms of the loss with a weight above 0, that of mixed images where there is a mixer.

    Where mixed images take the place of the clean ones, their loss takes that of the clean batch (ITC), which goes on
    with its weight when mixing ends.
    """
    pairs = build_pair_loss(config, layout)
    mix = _build_mix(config, model, pairs, to_steps)
    replaces = mix is not None and placement(config.mix.placement).replaces_clean
    objectives: list[Objective] = []
    for name, settings in config.loss.items():
        if settings.weight == 0 or (replaces and name == "itc"):
            continue
        arguments = {
            key: to_steps(value, field=f"config.loss.{name}.{key}")
            if key.endswith("_steps")
            else value
            for key, value in settings.items()
        }
        with error_prefix("config.loss."):
            objectives.append(build_objective(name, pairs=pairs, **arguments))
    if mix is not None:
        objectives.append(mix)
        if replaces and mix.ends_at is not None:
            objectives.append(_clean_again(config, mix.ends_at, pairs))
    for objective in objectives:
        objective.reads(model)  # refuses a model that lacks something
    return objectives


def _build_mix(
    config: ConfigDict, model: ImageTextModel, pairs: PairLoss, to_steps: Callable[..., int]
) -> Objective | None:
    c = config.mix
    mixer = _build_mixer(config, model, pairs.reduction.shards)
    if mixer is None:
        return None
    until = to_steps(c.until, field="config.mix.until")
    # "100%" is no end: then nothing is compiled for a time without mixing.
    ends_at = None if until >= to_steps("100%", field="config.mix.until") else until
    settings: dict[str, Any] = {
        name: c[name]
        for name in ("weight", "target", "beta", "label_smoothing", "placement", "fraction")
    }
    with error_prefix("config."):
        return build_objective(
            "mix",
            mixer=mixer,
            score=build_score_source(c.score, model) if mixer.needs_scores else None,
            ramp=to_steps(c.ramp, field="config.mix.ramp"),
            ends_at=ends_at,
            pairs=pairs,
            **settings,
        )


def _build_mixer(config: ConfigDict, model: ImageTextModel, shards: int) -> Mixer | None:
    name, options = config.mix.mixer, {}
    if name in config.mix.options:
        options = config.mix.options[name].to_dict()
    with error_prefix(f"config.mix.options.{name}: " if options else "config.mix.mixer: "):
        return build_mixer(name, grid=model.grid, shards=shards, **options)


def _clean_again(config: ConfigDict, starts_at: int, pairs: PairLoss) -> Objective:
    """Return the contrastive loss in whose place that of mixed images was, from the end of mixing on."""
    c = config.mix
    # The same kind of view, in which nothing is mixed: patch dropout goes on with its draws.
    return build_objective(
        "itc",
        weight=c.weight,
        starts_at=starts_at,
        view=ReplacingView(mixer=None),
        target=Hard(c.label_smoothing),
        pairs=pairs,
    )


def check_weights(config: ConfigDict) -> None:
    """Raise a UserError for a weight that would do nothing."""
    mix, itc = config.mix, config.loss.itc.weight
    if mix.mixer == "none":
        return
    if not mix.weight:
        raise UserError(
            f"config.mix.weight=0 with config.mix.mixer={mix.mixer!r}: mixed images would train nothing; set"
            " config.mix.mixer='none'"
        )
    if mix.placement == "replace" and itc not in (0, 1):
        raise UserError(
            f"config.loss.itc.weight={itc}: with config.mix.placement='replace' the mixed images' loss takes its place;"
            " set config.mix.weight in its stead"
        )


def check_objectives(objectives: Sequence[Objective], total_steps: int) -> None:
    """Raise a UserError where nothing is trained, or nothing any more at the end."""
    if not objectives:
        raise UserError(
            "config.loss: every weight is 0 and config.mix.mixer='none', so that nothing is trained; set"
            " config.loss.itc.weight=1"
        )
    if not objectives_at(objectives, total_steps - 1):
        raise UserError(
            "config.mix.until: no other loss has a weight, so that nothing is trained from there on; set"
            " config.loss.itc.weight=1, or config.mix.until='100%'"
        )


def check_teacher(config: ConfigDict) -> None:
    """Raise a UserError unless the momentum teacher (docs/method.md §5) has what it needs."""
    alpha, ema = config.loss.itc.alpha, config.optim.ema
    if not 0 <= ema < 1:
        raise UserError(f"config.optim.ema={ema}: give 0 (none) or a decay below 1, such as 0.995")
    if alpha and not ema:
        raise UserError(
            f"config.loss.itc.alpha={alpha} needs a teacher: set config.optim.ema above 0, such as 0.995"
        )
    if alpha and config.mix.mixer != "none" and config.mix.placement == "replace":
        raise UserError(
            f"config.loss.itc.alpha={alpha} needs the clean images, whose place mixed ones take with "
            "config.mix.placement='replace'; set it to 0, or use 'extra'"
        )
