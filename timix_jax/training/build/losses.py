"""Losses and mixing of a configuration as arguments: the terms of the loss."""

from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from timix_jax.errors import UserError, located
from timix_jax.mixing import build_mixer
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.objectives import Objective, build_objective
from timix_jax.objectives.base import objectives_at
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.pairs.pair_loss import PairLoss
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.parallel.layout import Layout
from timix_jax.objectives.pairs.pair_sweep import PairReduction


def build_pair_loss(config: ConfigDict, layout: Layout | None) -> PairLoss:
    """The loss over all image-text pairs of `config.contrastive`, on the mesh of `layout`."""
    c = config.contrastive
    with located("config."):
        return PairLoss(c.loss, PairReduction(c.method, c.chunk, layout.mesh if layout else None))


def build_objectives(
    config: ConfigDict, model: DualEncoder, to_steps: Callable[..., int]
) -> list[Objective]:
    """The terms of the loss with a weight above 0, the mixed one where there is a mixer."""
    pairs = build_pair_loss(config, model.layout)
    mix, objectives = config.mix, []
    options = mix.options[mix.mixer].to_dict() if mix.mixer in mix.options else {}
    with located(f"config.mix.options.{mix.mixer}: " if options else "config.mix.mixer: "):
        mixer = build_mixer(mix.mixer, grid=model.grid, shards=pairs.reduction.shards, **options)
    replaces = mixer is not None and mix.placement == "replace"
    for name, settings in config.loss.items():
        if settings.weight == 0:
            continue
        arguments = {
            key: to_steps(value, field=f"config.loss.{name}.{key}")
            if key.endswith("_steps")
            else value
            for key, value in settings.items()
        }
        with located("config.loss."):
            objective = build_objective(name, pairs=pairs, **arguments)
        if not (replaces and objective.gives_way):
            objectives.append(objective)
    if mixer is not None:
        until = to_steps(mix.until, field="config.mix.until")
        with located("config."):
            objectives.append(
                MixedContrastive(
                    mixer=mixer,
                    score=build_score_source(mix.score, model) if mixer.needs_scores else None,
                    weight=mix.weight,
                    target=mix.target,
                    beta=mix.beta,
                    label_smoothing=mix.label_smoothing,
                    placement=mix.placement,
                    fraction=mix.fraction,
                    ramp_steps=to_steps(mix.ramp, field="config.mix.ramp"),
                    # "100%" is no end: then nothing is compiled for a time without mixing.
                    until_step=None
                    if until >= to_steps("100%", field="config.mix.until")
                    else until,
                    pairs=pairs,
                )
            )
    return objectives


def check_weights(config: ConfigDict) -> None:
    """Raises a UserError for a weight that would do nothing."""
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
    """Raises a UserError where nothing is trained, or nothing any more at the end."""
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
    """Raises a UserError unless the momentum teacher (docs/method.md §5) has what it needs."""
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
