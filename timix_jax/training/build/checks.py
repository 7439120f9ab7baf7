"""Checks across groups of the configuration, before any data are read."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from timix_jax.errors import UserError, error_prefix
from timix_jax.evaluators import evaluator_class
from timix_jax.mixing.fraction import select_rows
from timix_jax.models import contains_towers
from timix_jax.optim import schedule
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import batch_shards, check_batch_size
from timix_jax.training.build.caption_checks import LEAST_TOKENS
from timix_jax.training.build.losses import build_pair_loss
from timix_jax.training.build.mesh import build_layout
from timix_jax.training.build.model import abstract_params, build_model
from timix_jax.training.build.settings import Settings

# Assumed where the data are missing: they determine how many steps an epoch or a percent has.
NOMINAL_EXAMPLES, NOMINAL_STEPS = 1_000_000, 100_000


def nominal_steps(settings: Settings) -> Callable[..., int]:
    """Return the conversion of durations to steps for `NOMINAL_EXAMPLES` and `NOMINAL_STEPS`."""
    return functools.partial(
        schedule.steps,
        batch_size=settings.train.batch_size,
        examples=NOMINAL_EXAMPLES,
        total_steps=NOMINAL_STEPS,
    )


def check_settings(settings: Settings) -> None:
    """Raise a UserError for a setting that training would refuse later, once its data are open."""
    to_steps = nominal_steps(settings)
    settings.train.total_steps(to_steps)
    settings.optim.warmup_steps(to_steps)
    for name, every in settings.periods.items():
        to_steps(every, field=f"config.{name}.every")
    with error_prefix("config.eval.evaluators: "):
        for name in settings.eval.evaluators:
            evaluator_class(name)


def check_shapes(settings: Settings, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Return the layout once batches and model are known to be possible; no data are read.

    Raises:
      UserError: the first field that cannot work.
    """
    layout = build_layout(settings.mesh, devices)
    _check_rows(settings, layout.mesh)
    _check_matching(settings, batch_shards(layout.mesh))
    _check_tokens(settings)
    model = build_model(settings, vocab_size=1, pad_id=0)
    params = abstract_params(model)
    layout = layout.with_axes(model.parameter_axes())
    with error_prefix("config.mesh: "):
        layout.shardings(params)
    _check_weights(settings)
    _check_scores(settings)
    _check_teacher(settings)
    build_pair_loss(settings.contrastive, None)
    return layout


def _check_rows(settings: Settings, mesh: Mesh) -> None:
    """Check that every batch of a step, and each microbatch of it, divides over the devices."""
    batches = {"config.train.batch_size": settings.train.batch_size}
    if settings.uses_regions:
        if not settings.regions.batch_size:
            raise UserError(
                f"config.loss.{settings.regions_reader}.weight is above 0: give config.regions.batch_size, the"
                " annotated images of a step, such as a quarter of config.train.batch_size"
            )
        batches["config.regions.batch_size"] = settings.regions.batch_size
    shards, parts = batch_shards(mesh), settings.train.accumulate
    for field, rows in batches.items():
        check_batch_size(rows, mesh, field=field)
        if rows % (shards * parts):
            raise UserError(
                f"{field}={rows}: does not divide into config.train.accumulate={parts} parts on each of {shards} "
                f"devices; use a multiple of {shards * parts}"
            )
    _check_mixed_rows(settings, shards)


def _check_matching(settings: Settings, shards: int) -> None:
    """Check that each row has another one that may be its hard negative."""
    itm, rows = settings.loss.terms["itm"], settings.train.batch_size
    if not itm["weight"]:
        return
    own = itm["candidates"] == "device"
    if (rows // shards if own else rows) < 2:
        where = f" on each of {shards} devices (candidates='device')" if own else ""
        raise UserError(
            f"config.train.batch_size={rows}: config.loss.itm pairs each image with a wrong caption, and a single"
            f" pair{where} has none; give at least {2 * shards if own else 2}"
        )


def _check_tokens(settings: Settings) -> None:
    """Check that texts fit the text encoder and hold as many words as are needed: two tokens are [CLS] and [SEP]."""
    tokens, limit = settings.regions.max_tokens, settings.model.text.max_tokens
    if settings.loss.terms["plm"]["weight"] and limit < LEAST_TOKENS:
        raise UserError(
            f"config.model.text.max_tokens={limit}: config.loss.plm splits captions into two parts of a word at least;"
            f" give {LEAST_TOKENS} or more"
        )
    if settings.uses_regions and tokens and not 3 <= tokens <= limit:
        raise UserError(
            f"config.regions.max_tokens={tokens}: give 3 to {limit} (config.model.text.max_tokens), or 0 for {limit}"
        )


def _check_mixed_rows(settings: Settings, shards: int) -> None:
    """Check that the mixed rows divide as the batch does, and that each has another one as its partner."""
    mix, parts = settings.mix, settings.train.accumulate
    batch_size = settings.train.batch_size
    if not mix.enabled or not 0 < mix.fraction <= 1:
        return
    if batch_size < 2:
        raise UserError(
            f"config.train.batch_size={batch_size}: one image has no partner to be mixed with; give at least 2, or"
            " set config.mix.mixer='none'"
        )
    if mix.fraction * batch_size < 2:
        raise UserError(
            f"config.mix.fraction={mix.fraction}: fewer than two of {batch_size} images, and one has no partner; "
            f"give at least {2 / batch_size:g}"
        )
    rows = batch_size if mix.replaces else len(select_rows(batch_size, mix.fraction))
    if rows % (shards * parts):
        raise UserError(
            f"config.mix.fraction={mix.fraction}: {rows} of {batch_size} images do not divide over "
            f"{shards} devices × {parts} parts; choose a share that gives a multiple of {shards * parts}"
        )
    if mix.within_shard and rows // shards < 2:
        raise UserError(
            f"config.mix.options.{mix.mixer}.within_shard=True: {rows} mixed images over {shards} devices leave each of"
            " them one, which has no partner there; set it to False, or raise config.train.batch_size"
        )


def _check_weights(settings: Settings) -> None:
    """Check that no weight is without effect."""
    mix, itc = settings.mix, settings.loss.terms["itc"]["weight"]
    if not mix.enabled:
        return
    if not mix.weight:
        raise UserError(
            f"config.mix.weight=0 with config.mix.mixer={mix.mixer!r}: mixed images would train nothing; set"
            " config.mix.mixer='none'"
        )
    if mix.replaces and itc not in (0, 1):
        raise UserError(
            f"config.loss.itc.weight={itc}: with config.mix.placement={mix.placement!r} the mixed images' loss takes"
            " its place; set config.mix.weight instead"
        )


def _check_scores(settings: Settings) -> None:
    """Refuse scores that do not read the caption: they choose the same windows with another image's caption."""
    mix, model = settings.mix, settings.model
    sources = {part.split(":")[-1] for part in mix.score.split("+")}
    mean = contains_towers(model.name) and model.image.pool == "gap"
    if mix.enabled and mean and "similarity" in sources and "shuffled" not in mix.score:
        raise UserError(
            f"config.mix.score={mix.score!r} with config.model.image.pool='gap': in a tower that is pooled by the mean,"
            " patches after attention do not tell what the caption names (docs/results.md); use 'single_patch'"
        )


def _check_teacher(settings: Settings) -> None:
    """Check that the momentum teacher (docs/method.md §5) has what it needs."""
    alpha, ema = settings.loss.terms["itc"]["alpha"], settings.optim.ema
    if not 0 <= ema < 1:
        raise UserError(f"config.optim.ema={ema}: give 0 (none) or a decay below 1, such as 0.995")
    for name, term in settings.loss.terms.items():
        if term.get("alpha") and not ema and (term["weight"] or name == "itc"):
            raise UserError(
                f"config.loss.{name}.alpha={term['alpha']} needs a teacher: set config.optim.ema above 0, such as 0.995"
            )
    if alpha and settings.mix.replaces:
        raise UserError(
            f"config.loss.itc.alpha={alpha} needs the clean images, of which config.mix.placement="
            f"{settings.mix.placement!r} replaces some by mixed ones; set it to 0, or use 'extra'"
        )
